//! The Rust peer: hyper in front, async-nats' JetStream context behind, on one thread of tokio.
//!
//! In: `peer PORT`, and the environment that every peer gets: BENCH_NATS_URL, BENCH_JWT_SECRET, and
//! BENCH_ROUTES, the workloads' paths as JSON. Out: the gateway's answers on 127.0.0.1.
//! It does what the other peers do: a token is verified once and then found in a map, request
//! headers become message headers where the route says so, a batch is split without
//! re-serialising, and 200 is answered only after every PubAck.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::env;
use std::net::Ipv4Addr;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::jetstream::context::{Context, ContextBuilder, PublishAckFuture, PublishError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{ConnectOptions, HeaderMap, HeaderName, HeaderValue, ServerAddr, Subject};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue as HttpValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY_BYTES_MAX: usize = 8 << 20;
const TOKENS_MAX: usize = 100_000;
/// 64 connections with 100 messages each do not wait for one another.
const PUBLISHES_PENDING_MAX: usize = 65_536;
const TYPE_CHARS_MAX: usize = 64;
const OK_BODY: &[u8] = br#"{"error":null,"success":true}"#;
const REFUSED_BODY: &[u8] = br#"{"error":"refused","success":false}"#;

/// What a path means.
#[derive(Clone, Deserialize)]
struct Route {
    path: String,
    subject: String,
    batch: bool,
    forwards: bool,
    schema: bool,
    #[serde(skip)]
    target: Option<Subject>,
}

/// The schema of the workloads as a type.
#[derive(Deserialize)]
struct Event<'a> {
    id: i64,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    customer: Cow<'a, str>,
    total: f64,
    #[serde(borrow, default, rename = "note")]
    _note: Cow<'a, str>,
}

fn satisfies(body: &[u8]) -> bool {
    serde_json::from_slice::<Event>(body).is_ok_and(|event| {
        event.id >= 1
            && event.kind.chars().count() <= TYPE_CHARS_MAX
            && !event.customer.is_empty()
            && event.total >= 0.0
    })
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

/// Verified credentials with their expiry: a request costs one lookup.
struct Tokens {
    key: DecodingKey,
    validation: Validation,
    expiries: RwLock<HashMap<HttpValue, u64>>,
}

impl Tokens {
    fn new(secret: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        let key = DecodingKey::from_secret(secret.as_bytes());
        Self {
            key,
            validation,
            expiries: RwLock::default(),
        }
    }

    fn is_valid(&self, authorization: Option<&HttpValue>) -> bool {
        let Some(value) = authorization else {
            return false;
        };
        let known = self
            .expiries
            .read()
            .expect("no panic holds it")
            .get(value)
            .copied();
        let expiry = known.unwrap_or_else(|| self.verify(value));
        expiry
            > SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |age| age.as_secs())
    }

    fn verify(&self, value: &HttpValue) -> u64 {
        let token = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .map(|pair| pair.1);
        let claims =
            token.and_then(|token| decode::<Claims>(token, &self.key, &self.validation).ok());
        let Some(claims) = claims else { return 0 };
        let mut expiries = self.expiries.write().expect("no panic holds it");
        if expiries.len() >= TOKENS_MAX {
            expiries.clear();
        }
        expiries.insert(value.clone(), claims.claims.exp);
        claims.claims.exp
    }
}

/// Names the request headers that never become message headers; hyper's names are lower case.
fn is_dropped(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "connection"
            | "content-length"
            | "cookie"
            | "expect"
            | "http2-settings"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-api-key"
    ) || name.starts_with("nats-")
        || name.starts_with("proxy-")
}

fn forward_headers(headers: &hyper::HeaderMap) -> Option<HeaderMap> {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        if !is_dropped(name.as_str()) {
            let name: HeaderName = name.as_str().parse().ok()?;
            let value: HeaderValue = value.to_str().ok()?.parse().ok()?;
            kept.append(name, value);
        }
    }
    Some(kept)
}

/// The work behind every route, over one connection to the broker.
struct Service {
    js: Context,
    tokens: Tokens,
    routes: HashMap<String, Route>,
}

impl Service {
    async fn open() -> Result<Self, Failure> {
        let address: ServerAddr = env::var("BENCH_NATS_URL")?.parse()?;
        let user = address.username().unwrap_or_default().to_owned();
        let password = address.password().unwrap_or_default().to_owned();
        let client = ConnectOptions::with_user_and_password(user, password)
            .client_capacity(PUBLISHES_PENDING_MAX)
            .skip_subject_validation(true)
            .connect(address)
            .await?;
        let js = ContextBuilder::new()
            .max_ack_inflight(PUBLISHES_PENDING_MAX)
            .build(client);
        let routes: Vec<Route> = serde_json::from_str(&env::var("BENCH_ROUTES")?)?;
        let by_path = routes.into_iter().map(|mut route| {
            route.target = Some(Subject::from(route.subject.as_str()));
            (route.path.clone(), route)
        });
        let tokens = Tokens::new(&env::var("BENCH_JWT_SECRET")?);
        Ok(Self {
            js,
            tokens,
            routes: by_path.collect(),
        })
    }

    async fn serve(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, body) = self.answer(request).await;
        let mut response = Response::new(Full::new(Bytes::from_static(body)));
        *response.status_mut() = status;
        let json = HttpValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Ok(response)
    }

    async fn answer(&self, request: Request<Incoming>) -> (StatusCode, &'static [u8]) {
        let Some(route) = self.routes.get(request.uri().path()) else {
            return (StatusCode::NOT_FOUND, REFUSED_BODY);
        };
        if request.method() != Method::POST {
            return (StatusCode::NOT_FOUND, REFUSED_BODY);
        }
        if !self.tokens.is_valid(request.headers().get(AUTHORIZATION)) {
            return (StatusCode::UNAUTHORIZED, REFUSED_BODY);
        }
        let headers = if route.forwards {
            forward_headers(request.headers())
        } else {
            None
        };
        let Ok(body) = Limited::new(request.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
        else {
            return (StatusCode::BAD_REQUEST, REFUSED_BODY);
        };
        let body = body.to_bytes();
        let Some(elements) = split(route, &body) else {
            return (StatusCode::BAD_REQUEST, REFUSED_BODY);
        };
        if route.schema && !elements.iter().all(|element| satisfies(element)) {
            return (StatusCode::BAD_REQUEST, REFUSED_BODY);
        }
        match self.store(route, elements, headers).await {
            Ok(()) => (StatusCode::OK, OK_BODY),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, REFUSED_BODY),
        }
    }

    async fn store(
        &self,
        route: &Route,
        mut elements: Vec<Bytes>,
        headers: Option<HeaderMap>,
    ) -> Result<(), PublishError> {
        let Some(last) = elements.pop() else {
            return Ok(());
        };
        let mut acks = Vec::with_capacity(elements.len());
        for element in elements {
            acks.push(self.publish(route, element, headers.clone()).await?);
        }
        self.publish(route, last, headers).await?.await?;
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }

    async fn publish(
        &self,
        route: &Route,
        payload: Bytes,
        headers: Option<HeaderMap>,
    ) -> Result<PublishAckFuture, PublishError> {
        let mut message = PublishMessage::build().payload(payload);
        if let Some(headers) = headers {
            message = message.headers(headers);
        }
        let subject = route.target.clone().expect("open() made it");
        self.js.send_publish(subject, message).await
    }
}

/// Finds the messages of a body; each is a part of it, counted, not copied.
fn split(route: &Route, body: &Bytes) -> Option<Vec<Bytes>> {
    if !route.batch {
        return Some(vec![body.clone()]);
    }
    let elements: Vec<&RawValue> = serde_json::from_slice(body).ok()?;
    Some(
        elements
            .iter()
            .map(|element| body.slice_ref(element.get().as_bytes()))
            .collect(),
    )
}

async fn run() -> Result<(), Failure> {
    let port: u16 = env::args().nth(1).ok_or("usage: peer PORT")?.parse()?;
    let service = Arc::new(Service::open().await?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .auto_date_header(false)
                .serve_connection(
                    TokioIo::new(stream),
                    service_fn(|request| service.serve(request)),
                );
            let _ = connection.await; // A client that went away is nobody's failure.
        });
    }
}

fn main() -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run())
}
