//! Sends HTTP requests to the operators' port, like a browser or Prometheus.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;

use super::server::TestServer;

/// Sends one request on a new connection. Returns the status, the content type and the body of the response.
pub(crate) async fn ask(
    server: &TestServer,
    method: Method,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> (StatusCode, String, String) {
    let stream = tokio::net::TcpStream::connect(server.admin()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", server.admin().to_string());
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status();
    let content_type = response
        .headers()
        .get("content-type")
        .map(|value| value.to_str().unwrap().to_owned());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        content_type.unwrap_or_default(),
        String::from_utf8(bytes.to_vec()).unwrap(),
    )
}

pub(crate) async fn get(server: &TestServer, path: &str) -> (StatusCode, String, String) {
    ask(server, Method::GET, path, None, "").await
}
