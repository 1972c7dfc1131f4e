//! A collector of spans (OTLP over gRPC), and whether the traces in it are whole.
//!
//! Decides what belongs to the trace of a flashblock: the builder's span, as its children those of the
//! gateway that sent it out, the consumer that executed it and the overlay that shows it, and below the
//! builder's call that of the signer that signed it. One that misses any of these is not whole. A transaction can be followed if
//! its trace goes from the wallet's request to the receipt, and leads to a flashblock that is whole; a
//! fetched payload, if its trace goes from the sidecar to the builder, and leads to a build.
//!
//! It keeps at most [`MAX_SPANS`] spans; further ones are counted and not kept.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as Exported, span::SpanKind},
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::samples::Samples;

/// How many spans are kept: many minutes of a devnet.
const MAX_SPANS: usize = 1_000_000;
/// The share of flashblocks whose traces must be whole.
const WHOLE: f64 = 0.99;
/// The hops of a flashblock: the service, and how the name of its span ends. A call has a span on either
/// side, by one name.
const HOPS: [(&str, &str); 4] = [
    ("preconf-signer", "Signer/Sign"),
    ("preconf-gateway", "fanout"),
    ("preconf-consumer", "execute"),
    ("preconf-rpc-overlay", "snapshot"),
];

/// A collector. Clones share it; it serves as long as the runtime runs.
#[derive(Clone, Debug)]
pub struct Collector {
    address: SocketAddr,
    /// How many spans a service keeps for it.
    queue: usize,
    collected: Arc<Mutex<Collected>>,
}

#[derive(Debug, Default)]
struct Collected {
    spans: Vec<Span>,
    not_kept: u64,
}

/// A span, as far as it is looked at.
#[derive(Clone, Debug)]
struct Span {
    service: String,
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    kind: SpanKind,
    begun: u64,
    ended: u64,
    attributes: BTreeMap<String, String>,
    /// The spans that it has to do with.
    links: Vec<Vec<u8>>,
}

impl Span {
    fn lasted(&self) -> f64 {
        millis(self.begun, self.ended)
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

/// What the traces of a run look like.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// Flashblocks that were published.
    pub flashblocks: usize,
    /// Those of them whose traces are whole.
    pub whole: usize,
    /// Builds that became a block.
    pub blocks: usize,
    /// Those of them with all that belongs to a block in one trace: flashblocks, sealing, the answer
    /// to getPayload, and the head that it became.
    pub whole_blocks: usize,
    /// Transactions that were sent to the overlay and preconfirmed.
    pub transactions: usize,
    /// Those of them that can be followed from the wallet's request to the receipt.
    pub followed: usize,
    /// Payloads that sidecars fetched.
    pub fetched: usize,
    /// Those of them that can be followed to the build.
    pub followed_fetches: usize,
    /// Calls from one service to another, as the one that is called sees them.
    pub calls: usize,
    /// Those of them that a service map can show: the caller has a span of its own for the call.
    pub mapped_calls: usize,
    /// The names of all spans, by service.
    pub names: BTreeMap<String, BTreeSet<String>>,
    /// What is not whole, and why; a few.
    pub examples: Vec<String>,
    hops: Vec<Hop>,
    not_kept: u64,
}

/// What one service adds.
#[derive(Clone, Debug)]
struct Hop {
    service: &'static str,
    /// How long its own span is.
    lasted: Samples,
    /// From the flashblock being cut to the end of this span.
    since_cut: Samples,
}

impl Collector {
    /// Listens on a port of loopback that is free.
    ///
    /// # Errors
    /// If there is none.
    pub async fn start() -> io::Result<Self> {
        let (listener, collector) = Self::bind(16_384).await?;
        let service = TraceServiceServer::new(collector.clone());
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Ok(collector)
    }

    /// One that takes connections and never says anything. Services have little room for what they
    /// cannot send.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn deaf() -> io::Result<(Self, Arc<AtomicUsize>)> {
        let (listener, collector) = Self::bind(16).await?;
        let connections = Arc::new(AtomicUsize::new(0));
        let taken = connections.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
                taken.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok((collector, connections))
    }

    async fn bind(queue: usize) -> io::Result<(TcpListener, Self)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok((listener, Self { address, queue, collected: Arc::default() }))
    }

    /// What a service that sends its spans here has in its environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address)),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_on".to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
            ("OTEL_BSP_MAX_QUEUE_SIZE", self.queue.to_string()),
        ]
    }

    /// Judges the flashblocks that were cut from one moment to another.
    pub fn judge(&self, from: SystemTime, to: SystemTime) -> Traces {
        let collected = self.collected.lock();
        judge(&collected.spans, nanos(from)..nanos(to), collected.not_kept)
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut collected = self.collected.lock();
        for resource in request.into_inner().resource_spans {
            let about = resource.resource.map(|about| texts(about.attributes)).unwrap_or_default();
            let service = about.get("service.name").cloned().unwrap_or_default();
            for exported in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if collected.spans.len() == MAX_SPANS {
                    collected.not_kept += 1;
                } else {
                    collected.spans.push(span(&service, exported));
                }
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn span(service: &str, exported: Exported) -> Span {
    let kind = exported.kind();
    Span {
        service: service.to_owned(),
        name: exported.name,
        trace: exported.trace_id,
        id: exported.span_id,
        kind,
        parent: exported.parent_span_id,
        begun: exported.start_time_unix_nano,
        ended: exported.end_time_unix_nano,
        attributes: texts(exported.attributes),
        links: exported.links.into_iter().map(|link| link.span_id).collect(),
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => None,
    };
    let named = |pair: KeyValue| Some((pair.key, text(pair.value?)?));
    attributes.into_iter().filter_map(named).collect()
}

fn judge(spans: &[Span], window: std::ops::Range<u64>, not_kept: u64) -> Traces {
    let mut children = Children::new();
    let mut by_trace: HashMap<&[u8], Vec<&Span>> = HashMap::new();
    let mut traces = Traces { not_kept, ..Traces::default() };
    for span in spans {
        children.entry((&span.trace, &span.parent)).or_default().push(span);
        by_trace.entry(&span.trace).or_default().push(span);
        traces.names.entry(span.service.clone()).or_default().insert(span.name.clone());
    }
    let hop = |service| Hop { service, lasted: Samples::default(), since_cut: Samples::default() };
    traces.hops.push(hop("preconf-builder"));
    traces.hops.extend(HOPS.map(|(service, _)| hop(service)));
    let (mut whole, mut answers) = (HashSet::new(), HashSet::new());
    let in_time = |span: &&Span| window.contains(&span.begun);
    for span in spans.iter().filter(in_time).filter(|span| span.service == "preconf-builder") {
        match span.name.as_str() {
            // One that could not be published has no position.
            "flashblock" if span.attribute("position").is_some() => {
                let is_whole = traces.flashblock(span, &children);
                if is_whole {
                    whole.insert(&span.id[..]);
                }
            }
            "build" if span.attribute("end") == Some("sealed") => {
                traces.block(span, below(&children, span));
            }
            "getPayload" => {
                answers.insert(&span.id[..]);
            }
            _ => {}
        }
    }
    for spans in by_trace.values() {
        traces.transaction(spans, &window, &whole);
    }
    let callers: HashMap<_, _> =
        spans.iter().map(|span| ((&span.trace[..], &span.id[..]), span)).collect();
    let is_call = |span: &&Span| span.kind == SpanKind::Server && !span.parent.is_empty();
    for call in spans.iter().filter(in_time).filter(is_call) {
        traces.call(call, callers.get(&(&call.trace[..], &call.parent[..])).copied());
    }
    for fetch in spans.iter().filter(in_time).filter(|span| span.name == "fetch") {
        if fetch.attribute("outcome") == Some("ok") {
            traces.fetch(fetch, &children, &answers);
        }
    }
    traces
}

/// Spans by the trace and the id of their parents.
type Children<'a> = HashMap<(&'a [u8], &'a [u8]), Vec<&'a Span>>;

fn below<'a>(children: &'a Children<'_>, span: &'a Span) -> &'a [&'a Span] {
    children.get(&(&span.trace[..], &span.id[..])).map_or(&[], Vec::as_slice)
}

/// A span of a service directly below another.
fn find<'a>(
    children: &'a Children<'_>,
    parent: &Span,
    service: &str,
    name: &str,
) -> Option<&'a Span> {
    let mut below = children.get(&(&parent.trace[..], &parent.id[..]))?.iter();
    below.find(|span| span.service == service && span.name.ends_with(name)).copied()
}

impl Traces {
    /// Says whether it is whole.
    fn flashblock(&mut self, cut: &Span, children: &Children<'_>) -> bool {
        self.flashblocks += 1;
        let found = HOPS.map(|(service, name)| {
            find(children, cut, service, name).or_else(|| {
                let call = find(children, cut, &cut.service, name)?;
                find(children, call, service, name)
            })
        });
        let missing: Vec<_> =
            HOPS.iter().zip(&found).filter(|(_, found)| found.is_none()).collect();
        if missing.is_empty() {
            self.whole += 1;
        } else {
            let names = missing.iter().map(|((service, _), _)| *service).collect::<Vec<_>>();
            let position = cut.attribute("position").unwrap_or_default();
            self.example(format!("flashblock {position} has no span of {}", names.join(", ")));
        }
        let hops = [Some(cut)].into_iter().chain(found);
        for (hop, span) in self.hops.iter_mut().zip(hops) {
            if let Some(span) = span {
                hop.lasted.add(span.lasted());
                hop.since_cut.add(millis(cut.begun, span.ended));
            }
        }
        missing.is_empty()
    }

    fn block(&mut self, build: &Span, below: &[&Span]) {
        self.blocks += 1;
        let has = |name: &&&str| !below.iter().any(|span| span.name == **name);
        let parts = ["prepare", "open session", "flashblock", "seal", "getPayload", "kept"];
        let missing: Vec<&str> = parts.iter().filter(has).copied().collect();
        if missing.is_empty() {
            self.whole_blocks += 1;
        } else {
            let build = build.attribute("build").unwrap_or_default();
            self.example(format!("build {build} has no span {}", missing.join(", ")));
        }
    }

    /// Looks at the spans of one trace, which may be that of a transaction; `whole` are flashblocks.
    fn transaction(
        &mut self,
        spans: &[&Span],
        window: &std::ops::Range<u64>,
        whole: &HashSet<&[u8]>,
    ) {
        let find = |service: &str, name: &str| {
            spans.iter().find(|span| span.service == service && span.name.ends_with(name))
        };
        let (builder, overlay) = ("preconf-builder", "preconf-rpc-overlay");
        let Some(preconfirmed) =
            find(builder, "preconfirmed").filter(|it| window.contains(&it.begun))
        else {
            return;
        };
        if find(overlay, "eth_sendRawTransaction").is_none() {
            return;
        }
        self.transactions += 1;
        let way = [
            (overlay, "Ingress/SubmitTransaction"),
            (builder, "Ingress/SubmitTransaction"),
            (overlay, "receipt served"),
        ];
        let missing = way.into_iter().filter(|(service, name)| find(service, name).is_none());
        let missing: Vec<_> = missing.map(|(_, name)| name).collect();
        let leads_on = preconfirmed.links.iter().any(|id| whole.contains(&id[..]));
        if leads_on && missing.is_empty() {
            self.followed += 1;
        } else {
            let position = preconfirmed.attribute("position").unwrap_or_default();
            let missing = if leads_on { missing.join(", ") } else { "link".to_owned() };
            self.example(format!("a transaction of flashblock {position} has no {missing}"));
        }
    }

    fn call(&mut self, call: &Span, caller: Option<&Span>) {
        self.calls += 1;
        if caller.is_some_and(|it| it.kind == SpanKind::Client && it.service != call.service) {
            self.mapped_calls += 1;
        } else {
            let caller = caller.map_or("nobody", |it| it.name.as_str());
            self.example(format!("{} of {} is called by {caller}", call.name, call.service));
        }
    }

    /// `answers` are what the builder answered with.
    fn fetch(&mut self, fetch: &Span, children: &Children<'_>, answers: &HashSet<&[u8]>) {
        self.fetched += 1;
        let (server, method) = ("preconf-payload-server", "Payloads/GetPayload");
        let served = find(children, fetch, server, "payload");
        let call = served.and_then(|served| find(children, served, server, method));
        let asked = call.and_then(|call| find(children, call, "preconf-builder", method));
        if asked.is_some_and(|asked| asked.links.iter().any(|id| answers.contains(&id[..]))) {
            self.followed_fetches += 1;
        } else {
            let reached = asked.or(served).unwrap_or(fetch);
            self.example(format!("a fetched payload is followed to {} only", reached.service));
        }
    }

    fn example(&mut self, example: String) {
        if self.examples.len() < 10 {
            self.examples.push(example);
        }
    }

    /// Why they are not good enough, if they are not.
    pub fn objections(&self) -> Vec<String> {
        let Self { flashblocks, whole, not_kept, .. } = *self;
        let mut objections = Vec::new();
        if flashblocks == 0 || (whole as f64) < WHOLE * flashblocks as f64 {
            objections
                .push(format!("the traces of {whole} of {flashblocks} flashblocks are whole"));
        }
        if not_kept > 0 {
            objections.push(format!("{not_kept} spans were not kept"));
        }
        objections
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "traces: {} of {} flashblocks whole, {} of {} blocks; followed are {} of {} \
             transactions, {} of {} fetched payloads; {} of {} calls can be on a map",
            self.whole,
            self.flashblocks,
            self.whole_blocks,
            self.blocks,
            self.followed,
            self.transactions,
            self.followed_fetches,
            self.fetched,
            self.mapped_calls,
            self.calls
        )?;
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        write!(
            f,
            "  {:<20} {:>6} {:>19} {:>21}",
            "", "spans", "span p50 / p99 ms", "done p50 / p99 ms"
        )?;
        for Hop { service, lasted, since_cut } in &self.hops {
            let (own, done) = (lasted.percentiles(), since_cut.percentiles());
            let (own, done) = (
                format!("{} / {}", ms(own.p50), ms(own.p99)),
                format!("{} / {}", ms(done.p50), ms(done.p99)),
            );
            write!(f, "\n  {service:<20} {:>6} {own:>19} {done:>21}", lasted.len())?;
        }
        Ok(())
    }
}

/// From one moment to another; their clock is one.
fn millis(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flashblock_without_the_span_of_one_service_is_not_whole() {
        let whole = judge(&flashblock(1, &HOPS), 0..u64::MAX, 0);
        assert_eq!((whole.flashblocks, whole.whole), (1, 1));
        assert!(whole.objections().is_empty());
        assert!(whole.to_string().contains("preconf-gateway           1         1.00 / 1.00"));

        for absent in 0..HOPS.len() {
            let mut hops = HOPS.to_vec();
            let (service, _) = hops.remove(absent);

            let broken = judge(&flashblock(1, &hops), 0..u64::MAX, 0);

            assert_eq!((broken.flashblocks, broken.whole), (1, 0));
            assert_eq!(broken.examples, [format!("flashblock 7:1 has no span of {service}")]);
            assert!(!broken.objections().is_empty());
        }
    }

    #[test]
    fn a_span_of_another_trace_or_another_parent_does_not_count() {
        let alter: [fn(&mut Span); 2] = [|span| span.trace = vec![9], |span| span.parent = vec![9]];
        for alter in alter {
            let mut spans = flashblock(1, &HOPS);
            alter(spans.last_mut().unwrap());

            assert_eq!(judge(&spans, 0..u64::MAX, 0).whole, 0);
        }
    }

    #[test]
    fn a_transaction_is_followed_if_it_leads_to_a_flashblock_that_is_whole() {
        let (builder, overlay) = ("preconf-builder", "preconf-rpc-overlay");
        let way = [
            (overlay, "eth_sendRawTransaction"),
            (overlay, "preconf.builder.v1.Ingress/SubmitTransaction"),
            (builder, "preconf.builder.v1.Ingress/SubmitTransaction"),
            (builder, "preconfirmed"),
        ];
        let transaction = |spans_of: &[(&str, &str)]| {
            let mut spans = flashblock(1, &HOPS);
            let flashblock = spans[0].clone();
            spans.extend(spans_of.iter().map(|(service, name)| Span {
                service: (*service).to_owned(),
                name: (*name).to_owned(),
                trace: vec![2],
                links: vec![flashblock.id.clone()],
                ..flashblock.clone()
            }));
            spans
        };
        let served = transaction(&[&way[..], &[(overlay, "receipt served")]].concat());
        let followed = |spans: &[Span]| {
            let traces = judge(spans, 0..u64::MAX, 0);
            (traces.transactions, traces.followed)
        };

        assert_eq!(followed(&served), (1, 1));
        assert_eq!(followed(&transaction(&way)), (1, 0), "its receipt was never served");
        assert_eq!(followed(&served[3..]), (1, 0), "the flashblock is not there");
    }

    #[test]
    fn a_call_is_on_the_map_if_its_caller_has_a_span_for_it() {
        let mut spans = flashblock(1, &HOPS);
        spans[2].kind = SpanKind::Server;
        let counted = |spans: &[Span]| {
            let traces = judge(spans, 0..u64::MAX, 0);
            (traces.calls, traces.mapped_calls)
        };

        assert_eq!(counted(&spans), (1, 0), "a server span below an internal one");
        spans[1].kind = SpanKind::Client;
        assert_eq!(counted(&spans), (1, 1));
        spans.remove(1);
        assert_eq!(counted(&spans), (1, 0), "the caller's span is not there");
    }

    #[test]
    fn what_was_cut_outside_the_window_is_not_judged() {
        assert_eq!(judge(&flashblock(1, &HOPS), 0..500, 0).flashblocks, 0);
        assert_eq!(judge(&flashblock(1, &HOPS), 0..2_000, 0).flashblocks, 1);
    }

    /// The spans of one flashblock, with those of these services.
    fn flashblock(trace: u8, hops: &[(&str, &str)]) -> Vec<Span> {
        let span = |service: &str, name: &str, id: u8, parent: Vec<u8>| Span {
            service: service.to_owned(),
            name: name.to_owned(),
            trace: vec![trace],
            id: vec![id],
            parent,
            kind: SpanKind::Internal,
            begun: 1_000,
            ended: 1_001_000,
            attributes: BTreeMap::from([("position".to_owned(), "7:1".to_owned())]),
            links: Vec::new(),
        };
        let call = span("preconf-builder", "preconf.signer.v1.Signer/Sign", 2, vec![1]);
        let mut spans = vec![span("preconf-builder", "flashblock", 1, vec![]), call];
        for (id, (service, name)) in (3..).zip(hops) {
            let parent = if *service == "preconf-signer" { 2 } else { 1 };
            spans.push(span(service, name, id, vec![parent]));
        }
        spans
    }
}
