//! Enums whose variants have a name outside the code: a metric label, an attribute, a topic. The name documents
//! the variant, unless there is more to say.

/// Declares an enum with the name of each variant, `ALL` (every variant in order) and a method that gives the
/// name.
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident, $(#[$method_meta:meta])* $method:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            $(#[$method_meta])*
            pub const fn $method(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

pub(crate) use named_enum;
