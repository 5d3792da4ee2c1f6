//! An OpenTelemetry collector, and the ways in which one can fail.

use std::{
    io::{BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
        metrics::v1::ExportMetricsServiceRequest,
    },
    common::v1::{KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::metric::Data,
};
use prost::Message as _;

use crate::{
    Lab,
    api::{
        http::Request,
        tls::{Authority, Identity, front},
    },
};

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Well,
    /// With this status, and so many seconds in `Retry-After`.
    Status(u16, u64),
    /// With bytes that are no HTTP.
    Garbage,
    /// With HTTP around bytes that are no OTLP.
    GarbledMessage,
    /// Not at all.
    Never,
    /// It rejects one record of each request.
    RejectsOne,
}

/// A record, as far as tests look at it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The record.
    pub record: LogRecord,
    /// Attributes of who tells.
    pub resource: Vec<KeyValue>,
}

#[derive(Default)]
struct Kept {
    manner: Option<Manner>,
    /// Requests, whatever became of them.
    requests: u64,
    records: Vec<Told>,
    metrics: Vec<ExportMetricsServiceRequest>,
}

/// A collector on the node.
#[derive(Clone)]
pub struct Collector {
    at: SocketAddr,
    kept: Arc<Mutex<Kept>>,
}

/// An attribute that is a text.
#[must_use]
pub fn attribute<'a>(all: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match all.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

impl Collector {
    /// Starts one on the node of that network.
    ///
    /// # Panics
    ///
    /// It cannot listen.
    #[must_use]
    pub fn start(lab: &Lab, manner: Manner) -> Self {
        let listener = lab.on("node").enter(|| TcpListener::bind(("127.0.0.1", 0))).expect("listen on the node");
        let at = listener.local_addr().expect("it listens");
        let kept = Arc::new(Mutex::new(Kept { manner: Some(manner), ..Kept::default() }));
        let collector = Self { at, kept };
        let serving = collector.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                thread::spawn(move || serving.answer(stream));
            }
        });
        collector
    }

    /// Where.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Where it also listens from now on, by TLS with that certificate. Where an authority of `clients` is given, clients
    /// need its certificate.
    ///
    /// # Panics
    ///
    /// It cannot listen.
    #[must_use]
    pub fn endpoint_by_tls(&self, lab: &Lab, server: &Identity, clients: Option<&Authority>) -> String {
        let listen = || TcpListener::bind(("127.0.0.1", 0)).expect("listen on the node");
        format!("https://{}", lab.on("node").enter(|| front(listen(), self.at, server, clients)))
    }

    /// From now on.
    pub fn answers(&self, manner: Manner) {
        self.kept().manner = Some(manner);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that were taken.
    #[must_use]
    pub fn records(&self) -> Vec<Told> {
        self.kept().records.clone()
    }

    /// Requests, whatever became of them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.kept().requests
    }

    /// The last value of a metric for this pod, device and direction.
    #[must_use]
    pub fn sum(&self, metric: &str, pod: &str, device: &str, direction: &str) -> Option<i64> {
        use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
        let kept = self.kept();
        let of_request = kept.metrics.last()?.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
        let metric = of_request.flat_map(|scope| &scope.metrics).find(|m| m.name == metric)?;
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?} is no sum") };
        let is = |key: &str, want: &str, all: &[KeyValue]| attribute(all, key) == Some(want);
        let point = sum.data_points.iter().find(|point| {
            let all = &point.attributes;
            is("k8s.pod.name", pod, all)
                && is("network.interface.name", device, all)
                && is("network.io.direction", direction, all)
        })?;
        match point.value {
            Some(Value::AsInt(value)) => Some(value),
            ref other => panic!("{other:?} is no number"),
        }
    }

    fn answer(&self, stream: TcpStream) {
        let mut out = stream.try_clone().expect("a socket can be cloned");
        let Ok(Some(request)) = Request::read(&mut BufReader::new(stream)) else { return };
        let manner = {
            let mut kept = self.kept();
            kept.requests += 1;
            kept.manner.expect("it was set")
        };
        let mut head = |status: &str, body: &[u8]| {
            let _ = write!(out, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = out.write_all(body);
        };
        match manner {
            Manner::Well => head("200 OK", &self.take(&request, 0)),
            Manner::RejectsOne => head("200 OK", &self.take(&request, 1)),
            Manner::Status(code, 0) => head(&format!("{code} No"), b"no"),
            Manner::Status(code, after) => head(&format!("{code} No\r\nRetry-After: {after}"), b"no"),
            Manner::Garbage => drop(out.write_all(b"\x00\x01\xff garbage \x1b[31m\r\n\r\n")),
            Manner::GarbledMessage => head("200 OK", b"\xff\xff\xff\xff"),
            Manner::Never => thread::sleep(Duration::from_secs(60)),
        }
    }

    /// Takes what is told, and gives the message of the answer.
    fn take(&self, request: &Request, rejected: i64) -> Vec<u8> {
        assert_eq!(request.headers["content-type"], "application/x-protobuf");
        if request.path == "/v1/metrics" {
            let message = ExportMetricsServiceRequest::decode(&*request.body).expect("a message of metrics");
            self.kept().metrics.push(message);
            return Vec::new();
        }
        assert_eq!(request.path, "/v1/logs");
        let message = ExportLogsServiceRequest::decode(&*request.body).expect("a message of logs");
        for logs in message.resource_logs {
            let resource = logs.resource.map(|resource| resource.attributes).unwrap_or_default();
            let records = logs.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            let told = records.skip(usize::try_from(rejected).unwrap_or(0));
            self.kept().records.extend(told.map(|record| Told { record, resource: resource.clone() }));
        }
        let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: "full".to_owned() };
        ExportLogsServiceResponse { partial_success: (rejected > 0).then_some(partial) }.encode_to_vec()
    }
}
