import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.SequenceInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Flow;

/**
 * Posts with the JDK's own client, as Debezium and Spring do: cleartext, so it asks for h2c.
 *
 * Arguments: URL, token, count. Prints one line "status body" for each response.
 */
public class Post {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        int count = Integer.parseInt(args[2]);
        for (int n = 0; n < count; n++) {
            show(client.send(request(args, BodyPublishers.ofString("jdk " + n)), text()));
        }
        byte[] large = new byte[300_000];
        for (int i = 0; i < large.length; i++) {
            large[i] = (byte) i;
        }
        show(client.send(request(args, BodyPublishers.ofByteArray(large)), text()));
        // A publisher of unknown length makes the client send chunks.
        show(client.send(request(args, new Unsized("jdk chunked")), text()));
        // A stream is read while it is sent, in chunks of the client's own choice.
        InputStream stream = new SequenceInputStream(
            new ByteArrayInputStream("jdk stream ".getBytes()), new ByteArrayInputStream(large));
        show(client.send(request(args, BodyPublishers.ofInputStream(() -> stream)), text()));
        // Spring's RestClient asks to continue first; the body waits for the gateway's word.
        HttpRequest asking = HttpRequest.newBuilder(URI.create(args[0]))
            .header("Authorization", "Bearer " + args[1])
            .header("X-Debezium-Op", "Yw==")
            .expectContinue(true)
            .POST(BodyPublishers.ofString("jdk expect"))
            .build();
        show(client.send(asking, text()));
        List<CompletableFuture<HttpResponse<String>>> waiting = new ArrayList<>();
        for (int n = 0; n < count; n++) {
            waiting.add(client.sendAsync(request(args, BodyPublishers.ofString("async")), text()));
        }
        for (CompletableFuture<HttpResponse<String>> response : waiting) {
            show(response.get());
        }
    }

    private static HttpRequest request(String[] args, HttpRequest.BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(args[0]))
            .header("Authorization", "Bearer: " + args[1])
            .header("X-Debezium-Op", "Yw==")
            .POST(body)
            .build();
    }

    private static HttpResponse.BodyHandler<String> text() {
        return HttpResponse.BodyHandlers.ofString();
    }

    private static void show(HttpResponse<String> response) {
        System.out.println(response.statusCode() + " " + response.body());
    }

    private record Unsized(String text) implements HttpRequest.BodyPublisher {
        public long contentLength() {
            return -1;
        }

        public void subscribe(Flow.Subscriber<? super ByteBuffer> subscriber) {
            BodyPublishers.ofString(text).subscribe(subscriber);
        }
    }
}
