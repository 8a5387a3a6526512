//! A client of HTTP/1.1, small enough to cut a request anywhere.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer that came whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Posts a body and waits for the answer.
pub(crate) fn post(address: &str, path: &str, body: &str) -> io::Result<Answer> {
    post_with(address, path, &[], body.as_bytes())
}

/// The same with headers, and a body of any bytes.
pub(crate) fn post_with(address: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
    let mut head =
        format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    head += "\r\n";
    send(address, &[head.as_bytes(), body].concat())
}

/// Gets a path.
pub(crate) fn get(address: &str, path: &str) -> io::Result<Answer> {
    send(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Sends these bytes and waits for the answer.
fn send(address: &str, request: &[u8]) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    read(&mut stream)
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

fn read(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off"))
}

/// The rows of a query's answer and the snapshot that it saw.
pub(crate) fn query(address: &str, sql: &str) -> (u64, Vec<Vec<serde_json::Value>>) {
    let answer = post(address, "/v1/sql", sql).expect("a server answers queries");
    assert_eq!(answer.status, 200, "{sql}\n{}", answer.text());
    let snapshot = answer.header("x-starmere-snapshot").and_then(|number| number.parse().ok());
    let rows = serde_json::from_value(answer.json()["rows"].clone()).expect("an answer has rows");
    (snapshot.expect("an answer names its snapshot"), rows)
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    let mut answer = Answer { status, headers: lines.filter_map(header).collect(), body: Vec::new() };
    let rest = &bytes[end + 4..];
    answer.body = match answer.header("content-length") {
        Some(length) => rest.get(..length.parse().ok()?)?.to_vec(),
        None if answer.header("transfer-encoding") == Some("chunked") => joined(rest)?,
        None => rest.to_vec(),
    };
    Some(answer)
}

/// The chunks of a body; none where the last one is missing.
fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}
