//! `/metrics`, `/healthz`, `/readyz`, `/status` and a page for people, over HTTP/1.1. Answers GET and HEAD only and reads
//! no body; slow or many visitors are cut, because the port may be open to a whole cluster.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Source, door};
use crate::model::report::State;

/// Serves until `stop`; then the answers under way have a moment to end.
pub(crate) async fn serve(listener: TcpListener, source: Arc<Source>, stop: CancellationToken) {
    // The health check of the orchestrator comes again when it was one too many.
    door::receive(listener, MAX_VISITORS, &stop, |stream| {
        let source = Arc::clone(&source);
        async move {
            // A visitor that stays too long or talks nonsense is nobody's problem but its own.
            let _ = tokio::time::timeout(LONGEST_VISIT, visit(stream, source)).await;
        }
    })
    .await;
}

async fn visit(stream: TcpStream, source: Arc<Source>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &source);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(method: &Method, path: &str, source: &Source) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/" => {
            let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", PAGE);
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
            response
        }
        "/metrics" => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", source.scrape()),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let report = source.report();
            match (report.ready, report.state) {
                (true, _) => text(StatusCode::OK, "ready\n"),
                (false, State::Starting) => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
                (false, State::Draining) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
                (false, State::Serving) => {
                    text(StatusCode::SERVICE_UNAVAILABLE, "neither a primary nor a replica that serves\n")
                }
            }
        }
        "/status" => match serde_json::to_vec_pretty(&source.report()) {
            Ok(body) => respond(StatusCode::OK, "application/json", body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "/ /metrics /healthz /readyz /status\n"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const PAGE: &str = include_str!("page.html");
/// The page may ask this server, and nothing else may run in it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";
const MAX_VISITORS: usize = 64;
const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 16 * 1024;
const HEADER_READ: Duration = Duration::from_secs(10);
const LONGEST_VISIT: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::admin::tests::source;
    use crate::model::topology::Topology;

    async fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer
    }

    #[tokio::test]
    async fn pages() {
        let (source, state, topology) = source();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let stop = CancellationToken::new();
        let check = async {
            let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            for (path, status, part) in [
                ("/", "200", "<!doctype html>"),
                ("/healthz", "200", "ok"),
                ("/readyz", "200", "ready"),
                ("/status", "200", "\"primary\": \"mysql-0\""),
                ("/metrics", "200", "readwright_server_lag_seconds{server=\"mysql-1\"} 0.02"),
                ("/nothing", "404", "/status"),
            ] {
                let answer = ask(port, &get(path)).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
                assert!(answer.contains(part), "{path}: {answer}");
            }
            let post =
                "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
            assert!(ask(port, post).await.starts_with("HTTP/1.1 405 "));
            assert!(!ask(port, "SSH-2.0-x\r\n\r\n").await.contains("200 OK"));
            let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(2 * MAX_HEADER_BYTES));
            assert!(!ask(port, &long).await.contains("200 OK"));
            topology.send_replace(Arc::new(Topology::default()));
            assert!(ask(port, &get("/readyz")).await.contains("neither a primary"));
            state.send_replace(State::Draining);
            assert!(ask(port, &get("/readyz")).await.starts_with("HTTP/1.1 503 "));
            assert!(ask(port, &get("/healthz")).await.starts_with("HTTP/1.1 200 "));
            stop.cancel();
        };
        tokio::join!(serve(listener, source, stop.clone()), check);
    }
}
