import java.io.IOException;
import java.net.URI;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.UnsupportedCallbackException;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.errors.SaslAuthenticationException;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerExtensionsValidatorCallback;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

/**
 * Takes the tokens that Amazon MSK takes: requests for kafka-cluster:Connect, presigned with Signature Version 4. The property
 * {@code msk.secret} is the secret of every key, {@code msk.log} a file that gets the tokens it has taken. The key AKIDTEST is
 * valid for ever, keys ASIA followed by seconds since 1970 until then, and with a session token; no other is.
 */
public class MskValidator implements AuthenticateCallbackHandler {
    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC);
    /** How far the clocks may be apart. */
    private static final Duration SKEW = Duration.ofMinutes(5);
    private static final Set<String> NOT_SIGNED = Set.of("X-Amz-Signature", "User-Agent");

    private final String secret = System.getProperty("msk.secret");
    private final Path log = Path.of(System.getProperty("msk.log"));

    @Override
    public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {}

    @Override
    public void close() {}

    @Override
    public void handle(Callback[] callbacks) throws IOException, UnsupportedCallbackException {
        for (Callback callback : callbacks) {
            if (callback instanceof OAuthBearerValidatorCallback validation) {
                validation.token(validated(validation.tokenValue()));
            } else if (callback instanceof OAuthBearerExtensionsValidatorCallback extensions) {
                extensions.inputExtensions().map().keySet().forEach(extensions::valid);
            } else {
                throw new UnsupportedCallbackException(callback);
            }
        }
    }

    private OAuthBearerToken validated(String value) throws IOException {
        Token token;
        try {
            token = token(value);
        } catch (RuntimeException | GeneralSecurityException error) {
            System.out.println("refused: " + error);
            throw new SaslAuthenticationException("[" + UUID.randomUUID() + "]: Access denied");
        }
        Files.writeString(log, value + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        return token;
    }

    private Token token(String value) throws GeneralSecurityException {
        require(!value.contains("="), "base64 without padding");
        URI uri = URI.create(new String(Base64.getUrlDecoder().decode(value), StandardCharsets.UTF_8));
        Map<String, String> query = new TreeMap<>();
        for (String pair : uri.getRawQuery().split("&")) {
            int at = pair.indexOf('=');
            String before = query.put(decoded(pair.substring(0, at)), decoded(pair.substring(at + 1)));
            require(before == null, "each parameter once");
        }
        String[] scope = query.get("X-Amz-Credential").split("/");
        require(scope.length == 5, "a credential of five parts");
        String key = scope[0];
        String date = query.get("X-Amz-Date");
        require("https".equals(uri.getScheme()) && "/".equals(uri.getRawPath()), "https and the path /");
        require(uri.getRawAuthority().equals("kafka." + scope[2] + ".amazonaws.com"), "the host of the region");
        require(date.startsWith(scope[1]) && scope[3].equals("kafka-cluster") && scope[4].equals("aws4_request"), "the scope");
        require("kafka-cluster:Connect".equals(query.get("Action")), "the action");
        require("AWS4-HMAC-SHA256".equals(query.get("X-Amz-Algorithm")), "the algorithm");
        require("host".equals(query.get("X-Amz-SignedHeaders")), "the signed headers");
        require(query.get("User-Agent") != null, "a user agent");
        Instant signed = TIME.parse(date, Instant::from);
        Instant now = Instant.now();
        int life = Integer.parseInt(query.get("X-Amz-Expires"));
        require(life > 0 && life <= 900, "at most 900 seconds");
        Instant end = signed.plusSeconds(life);
        require(signed.isBefore(now.plus(SKEW)) && now.isBefore(end), "a time that is now");
        if (key.startsWith("ASIA")) {
            require(query.get("X-Amz-Security-Token") != null, "a session token");
            Instant expiry = Instant.ofEpochSecond(Long.parseLong(key.substring(4)));
            require(now.isBefore(expiry), "credentials that have not expired");
            end = expiry.isBefore(end) ? expiry : end;
        } else {
            require(key.equals("AKIDTEST"), "a known key");
        }
        require(signature(uri, query, scope, date).equals(query.get("X-Amz-Signature")), "the signature");
        // As with MSK, the identity behind the key, which renewed credentials keep.
        return new Token(value, "bridge", signed.toEpochMilli(), end.toEpochMilli());
    }

    /** Signature Version 4: the canonical request, the string to sign, the key, the signature. */
    private String signature(URI uri, Map<String, String> query, String[] scope, String date) throws GeneralSecurityException {
        StringBuilder canonical = new StringBuilder();
        query.forEach((name, value) -> {
            if (!NOT_SIGNED.contains(name)) {
                canonical.append(canonical.isEmpty() ? "" : "&").append(encoded(name)).append('=').append(encoded(value));
            }
        });
        String request = "GET\n/\n" + canonical + "\nhost:" + uri.getRawAuthority() + "\n\nhost\n" + sha256("");
        String within = String.join("/", scope[1], scope[2], scope[3], scope[4]);
        String text = "AWS4-HMAC-SHA256\n" + date + "\n" + within + "\n" + sha256(request);
        byte[] key = ("AWS4" + secret).getBytes(StandardCharsets.UTF_8);
        for (String part : within.split("/")) {
            key = hmac(key, part);
        }
        return HexFormat.of().formatHex(hmac(key, text));
    }

    private static byte[] hmac(byte[] key, String text) throws GeneralSecurityException {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String sha256(String text) throws GeneralSecurityException {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.UTF_8));
        return HexFormat.of().formatHex(digest);
    }

    private static String decoded(String text) {
        return URLDecoder.decode(text, StandardCharsets.UTF_8);
    }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20").replace("*", "%2A").replace("%7E", "~");
    }

    private static void require(boolean holds, String what) {
        if (!holds) {
            throw new IllegalArgumentException("needs " + what);
        }
    }

    private record Token(String value, String principalName, long start, long lifetimeMs) implements OAuthBearerToken {
        @Override
        public Set<String> scope() {
            return Set.of();
        }

        @Override
        public Long startTimeMs() {
            return start;
        }
    }
}
