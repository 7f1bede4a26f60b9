import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * Speaks as Debezium Server's HTTP sink does: its requests, its clock, and its lack of patience.
 *
 * Arguments: gateway URL, station, then "jwt" user password, or "webhooks" secret. Records are read
 * from standard input, one a line, and sent one after the other. Prints "status duplicate body" for
 * each answer; ends with an exception at the first that is no 2xx, or that it cannot read strictly.
 */
public class Debezium {
    private static final Pattern MEMBER = Pattern.compile("\"(\\w+)\":(?:(\\d+)|\"([^\"\\\\]*)\")");
    private static final Set<String> PAIR =
        Set.of("expires_in", "jwt", "jwt_refresh_token", "refresh_token_expires_in");
    private static final int TOKEN_MINUTES = 60;
    private static final int REFRESH_MINUTES = 1440;

    private final HttpClient client = HttpClient.newHttpClient();
    private final URI base;
    private final String station;
    private long clockMs = 0;
    private long renewAtMs = 0;
    private String jwt;
    private String refreshToken;

    private Debezium(String base, String station) {
        this.base = URI.create(base + "/");
        this.station = station;
    }

    public static void main(String[] args) throws Exception {
        Debezium sink = new Debezium(args[0], args[1]);
        String[] records = new String(System.in.readAllBytes(), StandardCharsets.UTF_8).split("\n");
        if (args[2].equals("jwt")) {
            sink.sendWithTokens(args[3], args[4], records);
        } else {
            sink.sendSigned(args[3], records);
        }
    }

    private void sendWithTokens(String user, String password, String[] records) throws Exception {
        take(post("auth/authenticate", login(user, password)).send());
        for (String record : records) {
            renewWhenDue();
            send(withToken("single", record));
            // As if nine tenths of the token's life had passed until the next record.
            clockMs += TOKEN_MINUTES * 60_000L * 9 / 10;
        }
        renewWhenDue();
        send(withToken("batch", "[" + String.join(",", records) + "]"));
    }

    private void sendSigned(String secret, String[] records) throws Exception {
        byte[] key = Base64.getDecoder().decode(secret.substring("whsec_".length()));
        for (String record : records) {
            String id = "msg_" + UUID.randomUUID();
            send(signed(key, id, record));
            // The record was sent, the answer was lost: it comes again under its own id.
            send(signed(key, id, record));
        }
    }

    private static String login(String user, String password) {
        return "{\"username\":\"" + user + "\",\"password\":\"" + password + "\"," + expiries();
    }

    private static String expiries() {
        return "\"token_expiry_in_minutes\":" + TOKEN_MINUTES
            + ",\"refresh_token_expiry_in_minutes\":" + REFRESH_MINUTES + "}";
    }

    private void renewWhenDue() throws Exception {
        if (clockMs >= renewAtMs) {
            String body = "{\"jwt_refresh_token\":\"" + refreshToken + "\"," + expiries();
            take(post("auth/refreshToken", body).send());
            System.out.println("refreshed");
        }
    }

    /** Reads a pair of tokens as a strict client does: four members, no other, of these types. */
    private void take(HttpResponse<String> response) {
        require(response.statusCode() / 100 == 2, "status " + response.statusCode());
        String text = response.body().strip();
        require(text.startsWith("{") && text.endsWith("}"), text);
        Map<String, String> members = new TreeMap<>();
        for (String part : text.substring(1, text.length() - 1).split(",")) {
            Matcher member = MEMBER.matcher(part.strip());
            require(member.matches(), part);
            boolean isNumber = member.group(2) != null;
            require(isNumber == member.group(1).endsWith("expires_in"), part);
            members.put(member.group(1), isNumber ? member.group(2) : member.group(3));
        }
        require(members.keySet().equals(PAIR), members.keySet().toString());
        long lifeMs = Long.parseLong(members.get("expires_in"));
        require(lifeMs == TOKEN_MINUTES * 60_000L, "expires_in " + lifeMs);
        jwt = members.get("jwt");
        refreshToken = members.get("jwt_refresh_token");
        renewAtMs = clockMs + lifeMs * 9 / 10;
    }

    private Sending withToken(String kind, String body) {
        Sending sending = post("stations/" + station + "/produce/" + kind, body);
        sending.request.header("Authorization", "Bearer: " + jwt);
        return sending;
    }

    private Sending signed(byte[] key, String id, String body) throws Exception {
        String seconds = Long.toString(System.currentTimeMillis() / 1000);
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        byte[] sum = mac.doFinal((id + "." + seconds + "." + body).getBytes(StandardCharsets.UTF_8));
        Sending sending = post("stations/" + station + "/produce/single", body);
        sending.request.header("webhook-id", id);
        sending.request.header("webhook-timestamp", seconds);
        sending.request.header("webhook-signature", "v1," + encode(sum));
        return sending;
    }

    private Sending post(String path, String body) {
        HttpRequest.Builder request = HttpRequest.newBuilder(base.resolve(path))
            .header("content-type", "application/json")
            .POST(BodyPublishers.ofString(body));
        return new Sending(client, request);
    }

    private static void send(Sending sending) throws Exception {
        sending.request.header("X-DEBEZIUM-OP", encode("c".getBytes(StandardCharsets.UTF_8)));
        sending.request.header("X-DEBEZIUM-KEY", encode("clé\n1".getBytes(StandardCharsets.UTF_8)));
        HttpResponse<String> response = sending.send();
        String duplicate = response.headers().firstValue("Nats-Duplicate").orElse("-");
        System.out.println(response.statusCode() + " " + duplicate + " " + response.body());
        require(response.statusCode() / 100 == 2, "a record was refused");
    }

    private static String encode(byte[] bytes) {
        return Base64.getEncoder().encodeToString(bytes);
    }

    private static void require(boolean condition, String text) {
        if (!condition) {
            throw new IllegalStateException(text);
        }
    }

    private record Sending(HttpClient client, HttpRequest.Builder request) {
        HttpResponse<String> send() throws Exception {
            return client.send(request.build(), HttpResponse.BodyHandlers.ofString());
        }
    }
}
