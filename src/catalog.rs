//! The catalog: category, action, subject and partition key of each of Attio's event types.
//!
//! Source: Attio's webhooks OpenAPI document (27 types), its newer pages on activities (8 types) and the
//! earlier single-event form (3 types). Attio adds types, so one that is not in the catalog is published too: see [`Kind`].

use std::fmt;

use crate::named_enum::named_enum;

named_enum! {
    /// The category of an event type. Each has an address.
    pub enum Category,
    /// The category in addresses, labels and configuration.
    as_str {
        Record = "record",
        ListEntry = "list-entry",
        List = "list",
        ListAttribute = "list-attribute",
        ObjectAttribute = "object-attribute",
        Note = "note",
        Task = "task",
        Comment = "comment",
        WorkspaceMember = "workspace-member",
        CallRecording = "call-recording",
        Activity = "activity",
        ActivityAttribute = "activity-attribute",
        ActivityRecord = "activity-record",
    }
}

impl Category {
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.as_str() == name)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The location of an id in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// The member name, for example `record_id`.
    pub name: &'static str,
    /// True for a member of the event itself, false for a member of its `id` object.
    pub top_level: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Text(&'static str),
    Id(Id),
}

#[derive(Debug, PartialEq, Eq)]
pub struct EventType {
    /// `<category>.<action>` in Attio's spelling; `note-content.updated` is the one exception.
    pub name: &'static str,
    pub category: Category,
    /// The last token of the NATS subject.
    pub action: &'static str,
    /// The CloudEvents `subject`, a path whose parts are joined by `/`.
    pub subject: &'static [Part],
    /// The id of the entity whose events stay in order.
    pub partition_key: Id,
    /// The members of `id` in Attio's form, without the workspace.
    pub ids: &'static [&'static str],
    /// The other members in Attio's form that only some types have. Each is an id.
    pub members: &'static [Member],
    /// When Attio sends it, a sentence.
    pub sent: &'static str,
}

/// A member of an event that Attio always sends, perhaps as null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    pub name: &'static str,
    pub nullable: bool,
}

impl EventType {
    /// The ids that an event of this type must have: those of its subject and partition key, and the workspace.
    pub fn required_ids(&self) -> impl Iterator<Item = Id> {
        let in_subject = self.subject.iter().filter_map(|part| match part {
            Part::Id(id) => Some(*id),
            Part::Text(_) => None,
        });
        in_subject.chain([self.partition_key, WORKSPACE_ID])
    }

    /// The entry of a type.
    pub fn find(name: &str) -> Option<&'static Self> {
        let at = EVENT_TYPES.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        Some(&EVENT_TYPES[at])
    }
}

/// An event type, as far as the catalog has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Known(&'static EventType),
    /// A known category with an action that is not in the catalog.
    UnknownAction(Category),
    /// Anything else.
    Unknown,
}

impl Kind {
    /// Looks up a type. The category of a type that is not in the catalog is the text before its first dot.
    pub fn of(event_type: &str) -> Self {
        if let Some(known) = EventType::find(event_type) {
            return Self::Known(known);
        }
        if !is_event_type(event_type) {
            return Self::Unknown;
        }
        let category = event_type.split('.').next().unwrap_or(event_type);
        Category::parse(category).map_or(Self::Unknown, Self::UnknownAction)
    }

    pub fn category(self) -> Option<Category> {
        match self {
            Self::Known(entry) => Some(entry.category),
            Self::UnknownAction(category) => Some(category),
            Self::Unknown => None,
        }
    }
}

/// The address of a published schema, in parts: `<base_url>/<name>.json`.
pub const fn schema_url<'a>(base_url: &'a str, name: &'a str) -> [&'a str; 4] {
    [base_url, "/", name, ".json"]
}

/// Whether a text is valid in the CloudEvents `type`: `[a-z0-9.-]{1,128}`.
pub fn is_event_type(text: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(fits)
}

/// Whether a text is valid as an id in an attribute: `[A-Za-z0-9._:-]{1,128}`.
pub fn is_id(text: &str) -> bool {
    let within = |byte: u8, first: u8, last: u8| (first <= byte) & (byte <= last);
    let fits = |byte: u8| {
        within(byte, b'a', b'z')
            | within(byte, b'A', b'Z')
            | within(byte, b'0', b':')
            | within(byte, b'-', b'.')
            | (byte == b'_')
    };
    // Without an early exit, because that is faster (vectorised).
    (1..=128).contains(&text.len()) && text.bytes().fold(true, |good, byte| good & fits(byte))
}

/// The workspace, which every event of Attio's envelope names.
pub const WORKSPACE_ID: Id = member("workspace_id");

const fn member(name: &'static str) -> Id {
    Id { name, top_level: false }
}

const fn top(name: &'static str) -> Id {
    Id { name, top_level: true }
}

const fn always(name: &'static str) -> Member {
    Member { name, nullable: false }
}

const fn nullable(name: &'static str) -> Member {
    Member { name, nullable: true }
}

use Part::{Id as I, Text as T};

/// Every type of the catalog, sorted by name.
#[rustfmt::skip]
pub static EVENT_TYPES: &[EventType] = &[
    EventType { name: "activity-attribute.created", category: Category::ActivityAttribute, action: "created", subject: &[T("activities"), I(member("activity_id")), T("attributes"), I(member("attribute_id"))], partition_key: member("attribute_id"), ids: &["activity_id", "attribute_id"], members: &[], sent: "An attribute is added to a kind of activity." },
    EventType { name: "activity-attribute.updated", category: Category::ActivityAttribute, action: "updated", subject: &[T("activities"), I(member("activity_id")), T("attributes"), I(member("attribute_id"))], partition_key: member("attribute_id"), ids: &["activity_id", "attribute_id"], members: &[], sent: "An attribute of a kind of activity changes." },
    EventType { name: "activity-record.created", category: Category::ActivityRecord, action: "created", subject: &[T("activities"), I(member("activity_id")), T("records"), I(member("record_id"))], partition_key: member("record_id"), ids: &["activity_id", "record_id"], members: &[], sent: "An activity is recorded." },
    EventType { name: "activity-record.deleted", category: Category::ActivityRecord, action: "deleted", subject: &[T("activities"), I(member("activity_id")), T("records"), I(member("record_id"))], partition_key: member("record_id"), ids: &["activity_id", "record_id"], members: &[], sent: "A recorded activity is deleted." },
    EventType { name: "activity-record.updated", category: Category::ActivityRecord, action: "updated", subject: &[T("activities"), I(member("activity_id")), T("records"), I(member("record_id"))], partition_key: member("record_id"), ids: &["activity_id", "record_id", "attribute_id"], members: &[], sent: "One attribute of a recorded activity changes." },
    EventType { name: "activity.created", category: Category::Activity, action: "created", subject: &[T("activities"), I(member("activity_id"))], partition_key: member("activity_id"), ids: &["activity_id"], members: &[], sent: "A kind of activity is defined." },
    EventType { name: "activity.deleted", category: Category::Activity, action: "deleted", subject: &[T("activities"), I(member("activity_id"))], partition_key: member("activity_id"), ids: &["activity_id"], members: &[], sent: "A kind of activity is deleted." },
    EventType { name: "activity.updated", category: Category::Activity, action: "updated", subject: &[T("activities"), I(member("activity_id"))], partition_key: member("activity_id"), ids: &["activity_id"], members: &[], sent: "A kind of activity changes." },
    EventType { name: "call-recording.created", category: Category::CallRecording, action: "created", subject: &[T("meetings"), I(member("meeting_id")), T("call-recordings"), I(member("call_recording_id"))], partition_key: member("call_recording_id"), ids: &["meeting_id", "call_recording_id"], members: &[], sent: "A call recording is ready." },
    EventType { name: "call-recording.updated", category: Category::CallRecording, action: "updated", subject: &[T("meetings"), I(member("meeting_id")), T("call-recordings"), I(member("call_recording_id"))], partition_key: member("call_recording_id"), ids: &["meeting_id", "call_recording_id"], members: &[], sent: "A call recording changes. Only in the single-event form: Attio's reference has no such event." },
    EventType { name: "comment.created", category: Category::Comment, action: "created", subject: &[T("threads"), I(top("thread_id")), T("comments"), I(member("comment_id"))], partition_key: top("thread_id"), ids: &["comment_id"], members: &[always("thread_id"), always("object_id"), always("record_id"), nullable("list_id"), nullable("entry_id")], sent: "A comment is written." },
    EventType { name: "comment.deleted", category: Category::Comment, action: "deleted", subject: &[T("threads"), I(top("thread_id")), T("comments"), I(member("comment_id"))], partition_key: top("thread_id"), ids: &["comment_id"], members: &[always("thread_id"), always("object_id"), always("record_id"), nullable("list_id"), nullable("entry_id")], sent: "A comment is deleted. The first comment of a thread has the thread's id, and takes the thread with it." },
    EventType { name: "comment.resolved", category: Category::Comment, action: "resolved", subject: &[T("threads"), I(top("thread_id")), T("comments"), I(member("comment_id"))], partition_key: top("thread_id"), ids: &["comment_id"], members: &[always("thread_id"), always("object_id"), always("record_id"), nullable("list_id"), nullable("entry_id")], sent: "A comment is resolved." },
    EventType { name: "comment.unresolved", category: Category::Comment, action: "unresolved", subject: &[T("threads"), I(top("thread_id")), T("comments"), I(member("comment_id"))], partition_key: top("thread_id"), ids: &["comment_id"], members: &[always("thread_id"), always("object_id"), always("record_id"), nullable("list_id"), nullable("entry_id")], sent: "A resolved comment is reopened." },
    EventType { name: "comment.updated", category: Category::Comment, action: "updated", subject: &[T("threads"), I(top("thread_id")), T("comments"), I(member("comment_id"))], partition_key: top("thread_id"), ids: &["comment_id"], members: &[always("thread_id"), always("object_id"), always("record_id"), nullable("list_id"), nullable("entry_id")], sent: "A comment changes. Only in the single-event form: Attio's reference has no such event." },
    EventType { name: "list-attribute.created", category: Category::ListAttribute, action: "created", subject: &[T("lists"), I(member("list_id")), T("attributes"), I(member("attribute_id"))], partition_key: member("attribute_id"), ids: &["list_id", "attribute_id"], members: &[], sent: "An attribute is added to a list." },
    EventType { name: "list-attribute.updated", category: Category::ListAttribute, action: "updated", subject: &[T("lists"), I(member("list_id")), T("attributes"), I(member("attribute_id"))], partition_key: member("attribute_id"), ids: &["list_id", "attribute_id"], members: &[], sent: "An attribute of a list changes." },
    EventType { name: "list-entry.created", category: Category::ListEntry, action: "created", subject: &[T("lists"), I(member("list_id")), T("entries"), I(member("entry_id"))], partition_key: member("entry_id"), ids: &["list_id", "entry_id"], members: &[always("parent_object_id"), always("parent_record_id")], sent: "A record is added to a list." },
    EventType { name: "list-entry.deleted", category: Category::ListEntry, action: "deleted", subject: &[T("lists"), I(member("list_id")), T("entries"), I(member("entry_id"))], partition_key: member("entry_id"), ids: &["list_id", "entry_id"], members: &[always("parent_object_id"), always("parent_record_id")], sent: "A record is removed from a list." },
    EventType { name: "list-entry.updated", category: Category::ListEntry, action: "updated", subject: &[T("lists"), I(member("list_id")), T("entries"), I(member("entry_id"))], partition_key: member("entry_id"), ids: &["list_id", "entry_id", "attribute_id"], members: &[always("parent_object_id"), always("parent_record_id")], sent: "One attribute of a list entry changes." },
    EventType { name: "list.created", category: Category::List, action: "created", subject: &[T("lists"), I(member("list_id"))], partition_key: member("list_id"), ids: &["list_id"], members: &[], sent: "A list is created." },
    EventType { name: "list.deleted", category: Category::List, action: "deleted", subject: &[T("lists"), I(member("list_id"))], partition_key: member("list_id"), ids: &["list_id"], members: &[], sent: "A list is deleted." },
    EventType { name: "list.updated", category: Category::List, action: "updated", subject: &[T("lists"), I(member("list_id"))], partition_key: member("list_id"), ids: &["list_id"], members: &[], sent: "The settings of a list change, such as its name." },
    EventType { name: "note-content.updated", category: Category::Note, action: "content-updated", subject: &[T("notes"), I(member("note_id"))], partition_key: member("note_id"), ids: &["note_id"], members: &[always("parent_object_id"), always("parent_record_id")], sent: "The text of a note changes." },
    EventType { name: "note.created", category: Category::Note, action: "created", subject: &[T("notes"), I(member("note_id"))], partition_key: member("note_id"), ids: &["note_id"], members: &[always("parent_object_id"), always("parent_record_id")], sent: "A note is created." },
    EventType { name: "note.deleted", category: Category::Note, action: "deleted", subject: &[T("notes"), I(member("note_id"))], partition_key: member("note_id"), ids: &["note_id"], members: &[always("parent_object_id"), always("parent_record_id")], sent: "A note is deleted." },
    EventType { name: "note.updated", category: Category::Note, action: "updated", subject: &[T("notes"), I(member("note_id"))], partition_key: member("note_id"), ids: &["note_id"], members: &[always("parent_object_id"), always("parent_record_id")], sent: "The title of a note changes." },
    EventType { name: "object-attribute.created", category: Category::ObjectAttribute, action: "created", subject: &[T("objects"), I(member("object_id")), T("attributes"), I(member("attribute_id"))], partition_key: member("attribute_id"), ids: &["object_id", "attribute_id"], members: &[], sent: "An attribute is added to an object." },
    EventType { name: "object-attribute.updated", category: Category::ObjectAttribute, action: "updated", subject: &[T("objects"), I(member("object_id")), T("attributes"), I(member("attribute_id"))], partition_key: member("attribute_id"), ids: &["object_id", "attribute_id"], members: &[], sent: "An attribute of an object changes." },
    EventType { name: "record.created", category: Category::Record, action: "created", subject: &[T("objects"), I(member("object_id")), T("records"), I(member("record_id"))], partition_key: member("record_id"), ids: &["object_id", "record_id"], members: &[], sent: "A record is created." },
    EventType { name: "record.deleted", category: Category::Record, action: "deleted", subject: &[T("objects"), I(member("object_id")), T("records"), I(member("record_id"))], partition_key: member("record_id"), ids: &["object_id", "record_id"], members: &[], sent: "A record is deleted." },
    EventType { name: "record.merged", category: Category::Record, action: "merged", subject: &[T("objects"), I(member("object_id")), T("records"), I(member("record_id"))], partition_key: member("record_id"), ids: &["object_id", "record_id"], members: &[always("duplicate_object_id"), always("duplicate_record_id")], sent: "Two records are merged into a third. Each of the two is the duplicate_record_id of one event, and no longer exists." },
    EventType { name: "record.updated", category: Category::Record, action: "updated", subject: &[T("objects"), I(member("object_id")), T("records"), I(member("record_id"))], partition_key: member("record_id"), ids: &["object_id", "record_id", "attribute_id"], members: &[], sent: "One attribute of a record changes; several changes at once are several events." },
    EventType { name: "task.created", category: Category::Task, action: "created", subject: &[T("tasks"), I(member("task_id"))], partition_key: member("task_id"), ids: &["task_id"], members: &[], sent: "A task is created." },
    EventType { name: "task.deleted", category: Category::Task, action: "deleted", subject: &[T("tasks"), I(member("task_id"))], partition_key: member("task_id"), ids: &["task_id"], members: &[], sent: "A task is deleted." },
    EventType { name: "task.updated", category: Category::Task, action: "updated", subject: &[T("tasks"), I(member("task_id"))], partition_key: member("task_id"), ids: &["task_id"], members: &[], sent: "A task changes, such as its assignees or its deadline." },
    EventType { name: "workspace-member.created", category: Category::WorkspaceMember, action: "created", subject: &[T("workspace-members"), I(member("workspace_member_id"))], partition_key: member("workspace_member_id"), ids: &["workspace_member_id"], members: &[], sent: "A member joins the workspace." },
    EventType { name: "workspace-member.updated", category: Category::WorkspaceMember, action: "updated", subject: &[T("workspace-members"), I(member("workspace_member_id"))], partition_key: member("workspace_member_id"), ids: &["workspace_member_id"], members: &[], sent: "A member of the workspace changes. Only in the single-event form: Attio's reference has no such event." },
];
