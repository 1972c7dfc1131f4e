//! Reading what passes: which requests are shown to the hooks, and what was answered to them.
//!
//! Reading never fails and never changes anything: what is not understood is [`Call::Other`] or
//! [`Call::NotUnderstood`], and is forwarded as it is.

use std::collections::BTreeMap;
use std::ops::Range;

use alloy_primitives::B256;
use alloy_rpc_types_engine::{ForkchoiceState, ForkchoiceUpdated, PayloadAttributes, PayloadId};
use bytes::Bytes;
use http::StatusCode;
use preconf_chain::ProposerPublicKey;
use serde_json::value::{RawValue, to_raw_value};

use super::hooks::ForkchoiceCall;
use crate::berachain::BerachainAttributes;
use crate::client::Forwarded;
use crate::rpc::{self, Answer, Params, Request};
use crate::status::ForkchoiceAnswer;
use crate::version::{ForkchoiceVersion, PayloadVersion};

/// The attributes that forkchoiceUpdatedV3 has. One that is not among them asks for something
/// that our blocks would not have, so those are left to the execution client.
const ATTRIBUTES_V3: [&str; 5] =
    ["timestamp", "prevRandao", "suggestedFeeRecipient", "withdrawals", "parentBeaconBlockRoot"];

/// What forkchoiceUpdatedV3P11 has beyond them. The slot's number is in no block of these forks.
const MORE_ATTRIBUTES_P11: [&str; 3] = ["parentProposerPubKey", "targetGasLimit", "slotNumber"];

/// One request of the consensus client.
#[derive(Debug)]
pub(super) enum Call {
    /// A forkchoice update.
    Forkchoice { id: Box<RawValue>, call: Box<ForkchoiceCall> },
    /// A request for a payload.
    GetPayload { id: Box<RawValue>, version: PayloadVersion, payload: PayloadId },
    /// A method that we intercept, with something in it that we do not know, or of a version that
    /// came after those.
    NotUnderstood { method: String },
    /// Anything else: other methods, earlier versions, batches, notifications, and what is not JSON.
    Other,
}

impl Call {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Self {
        // serde would read an array as a request, field by field.
        if rpc::is_batch(body) {
            return Self::Other;
        }
        let Ok(request) = serde_json::from_slice::<Request<'_>>(body) else { return Self::Other };
        let Some(id) = request.id else { return Self::Other };
        let understood = match &*request.method {
            "engine_forkchoiceUpdatedV3" => forkchoice(&request, id, ForkchoiceVersion::V3),
            "engine_forkchoiceUpdatedV3P11" => forkchoice(&request, id, ForkchoiceVersion::V3P11),
            "engine_getPayloadV3" => get_payload(&request, id, PayloadVersion::V3),
            "engine_getPayloadV4" => get_payload(&request, id, PayloadVersion::V4),
            "engine_getPayloadV5" => get_payload(&request, id, PayloadVersion::V5),
            "engine_getPayloadV4P11" => get_payload(&request, id, PayloadVersion::V4P11),
            method if is_later(method) => None,
            _ => Some(Self::Other),
        };
        understood.unwrap_or_else(|| Self::NotUnderstood { method: request.method.into_owned() })
    }
}

/// Whether a method that we intercept has a version that we do not know: every one but the first two,
/// which are of forks before ours.
fn is_later(method: &str) -> bool {
    let versions = ["engine_forkchoiceUpdatedV", "engine_getPayloadV"];
    let version = versions.iter().find_map(|prefix| method.strip_prefix(prefix));
    version.is_some_and(|version| !["1", "2"].contains(&version))
}

/// A body that is forwarded without being shown to anybody: a request or a batch.
pub(super) struct Unseen {
    /// What is sent: as it came, but for ids of ours.
    pub(super) body: Bytes,
    /// Whether a forkchoice update of any version is in it.
    pub(super) is_forkchoice: bool,
}

impl Unseen {
    /// Reads a body. `theirs` is the execution client's payload id behind one of ours, if it is
    /// another one.
    pub(super) fn read(body: &Bytes, theirs: impl Fn(PayloadId) -> Option<PayloadId>) -> Self {
        let requests = requests(body);
        let is_of = |request: &Request<'_>, prefix| request.method.starts_with(prefix);
        let is_forkchoice =
            requests.iter().any(|request| is_of(request, "engine_forkchoiceUpdated"));
        let mut sent = Vec::new();
        let mut copied = 0;
        for request in requests.iter().filter(|request| is_of(request, "engine_getPayloadV")) {
            let Some((at, ours)) = payload_id(body, request) else { continue };
            let Some(theirs) = theirs(ours) else { continue };
            sent.extend_from_slice(&body[copied..at.start]);
            sent.extend_from_slice(format!("\"{theirs}\"").as_bytes());
            copied = at.end;
        }
        if copied == 0 {
            return Self { body: body.clone(), is_forkchoice };
        }
        sent.extend_from_slice(&body[copied..]);
        Self { body: sent.into(), is_forkchoice }
    }
}

/// The requests in a body, in their order; those that cannot be read are left out.
fn requests(body: &[u8]) -> Vec<Request<'_>> {
    if !rpc::is_batch(body) {
        return serde_json::from_slice(body).into_iter().collect();
    }
    let entries: Vec<&RawValue> = serde_json::from_slice(body).unwrap_or_default();
    let objects = entries.into_iter().map(RawValue::get).filter(|entry| entry.starts_with('{'));
    objects.filter_map(|entry| serde_json::from_str(entry).ok()).collect()
}

/// The payload id that a request of this body asks for, and where in the body it is written.
fn payload_id(body: &[u8], request: &Request<'_>) -> Option<(Range<usize>, PayloadId)> {
    let params: Vec<&RawValue> = serde_json::from_str(request.params?.get()).ok()?;
    let written = params.first()?.get();
    let id = serde_json::from_str(written).ok()?;
    // It borrows from the body.
    let start = written.as_ptr().addr() - body.as_ptr().addr();
    Some((start..start + written.len(), id))
}

fn forkchoice(request: &Request<'_>, id: &RawValue, version: ForkchoiceVersion) -> Option<Call> {
    let params = Params::parse(request.params).ok()?;
    if params.len() > 2 {
        return None;
    }
    let state: ForkchoiceState = params.required(0, "forkchoiceState").ok()?;
    let attributes: Option<Box<RawValue>> = params.optional(1, "payloadAttributes").ok()?;
    let (attributes, parent_proposer_pubkey) = match attributes {
        Some(attributes) => {
            let (attributes, key) = payload_attributes(&attributes, version)?;
            (Some(attributes), key)
        }
        None => (None, None),
    };
    let call = ForkchoiceCall { version, state, attributes, parent_proposer_pubkey };
    Some(Call::Forkchoice { id: id.to_owned(), call: Box::new(call) })
}

/// The attributes, if they are exactly those of the version. Unknown ones may be there as `null`.
fn payload_attributes(
    raw: &RawValue,
    version: ForkchoiceVersion,
) -> Option<(PayloadAttributes, Option<ProposerPublicKey>)> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(raw.get()).ok()?;
    let known = |name: &str| match version {
        ForkchoiceVersion::V3 => ATTRIBUTES_V3.contains(&name),
        ForkchoiceVersion::V3P11 => {
            ATTRIBUTES_V3.contains(&name) || MORE_ATTRIBUTES_P11.contains(&name)
        }
    };
    if fields.iter().any(|(name, value)| !known(name) && value.get() != "null") {
        return None;
    }
    let (attributes, key) = match version {
        ForkchoiceVersion::V3 => (serde_json::from_str(raw.get()).ok()?, None),
        ForkchoiceVersion::V3P11 => {
            let own: BerachainAttributes = serde_json::from_str(raw.get()).ok()?;
            (own.attributes, Some(own.parent_proposer_pubkey))
        }
    };
    let attributes: PayloadAttributes = attributes;
    let complete =
        attributes.withdrawals.is_some() && attributes.parent_beacon_block_root.is_some();
    complete.then_some((attributes, key))
}

fn get_payload(request: &Request<'_>, id: &RawValue, version: PayloadVersion) -> Option<Call> {
    let params = Params::parse(request.params).ok()?;
    let payload = params.required(0, "payloadId").ok().filter(|_| params.len() == 1)?;
    Some(Call::GetPayload { id: id.to_owned(), version, payload })
}

/// The answer to a forkchoice update, without an error in it.
pub(super) struct Forkchoice<'a> {
    pub(super) updated: ForkchoiceUpdated,
    fields: BTreeMap<String, &'a RawValue>,
}

impl<'a> Forkchoice<'a> {
    /// Reads the answer; `None` if it is an error or something that we do not know.
    pub(super) fn parse(forwarded: &'a Forwarded) -> Option<Self> {
        let result = result(forwarded)?;
        let answer: ForkchoiceAnswer = serde_json::from_str(result.get()).ok()?;
        let fields = serde_json::from_str(result.get()).ok()?;
        Some(Self { updated: answer.into(), fields })
    }

    /// Whether another head than the one that was chosen is what was called VALID.
    pub(super) fn is_valid_for_another_than(&self, head: B256) -> bool {
        let status = &self.updated.payload_status;
        status.is_valid() && status.latest_valid_hash.is_some_and(|valid| valid != head)
    }

    /// The same answer with another payload id; every other field stays as it was written.
    pub(super) fn with_payload_id(self, id: &RawValue, payload: PayloadId) -> Bytes {
        let payload = to_raw_value(&payload).expect("8 bytes of hex always serialize");
        let mut fields: BTreeMap<String, &RawValue> = self.fields;
        fields.insert("payloadId".to_owned(), &payload);
        let result = to_raw_value(&fields).expect("raw JSON always serializes");
        rpc::answer_body(Some(id), Ok(&result))
    }
}

/// The id of a request that could be read, to answer it.
pub(super) fn id_of(body: &[u8]) -> Option<Box<RawValue>> {
    if rpc::is_batch(body) {
        return None;
    }
    serde_json::from_slice::<Request<'_>>(body).ok()?.id.map(ToOwned::to_owned)
}

fn result(forwarded: &Forwarded) -> Option<&RawValue> {
    if forwarded.status != StatusCode::OK {
        return None;
    }
    let answer: Answer<'_> = serde_json::from_slice(&forwarded.body).ok()?;
    answer.result.filter(|_| answer.error.is_none())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HASH: &str = "0x1111111111111111111111111111111111111111111111111111111111111111";

    fn attributes() -> serde_json::Value {
        json!({
            "timestamp": "0x5", "prevRandao": HASH,
            "suggestedFeeRecipient": "0x3333333333333333333333333333333333333333",
            "withdrawals": [], "parentBeaconBlockRoot": HASH,
        })
    }

    fn parse(method: &str, params: serde_json::Value) -> Call {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        Call::parse(body.to_string().as_bytes())
    }

    fn update(attributes: serde_json::Value) -> Call {
        let state =
            json!({ "headBlockHash": HASH, "safeBlockHash": HASH, "finalizedBlockHash": HASH });
        parse("engine_forkchoiceUpdatedV3", json!([state, attributes]))
    }

    #[test]
    fn a_forkchoice_update_is_read_with_and_without_attributes() {
        let Call::Forkchoice { call, .. } = update(attributes()) else { panic!("not read") };
        assert_eq!(call.attributes.unwrap().timestamp, 5);
        let Call::Forkchoice { call, .. } = update(json!(null)) else { panic!("not read") };
        assert_eq!(call.attributes, None);
    }

    #[test]
    fn an_unknown_attribute_is_not_understood_unless_it_is_null() {
        let mut unknown = attributes();
        unknown["parentProposerPubKey"] = json!(null);
        assert!(matches!(update(unknown.clone()), Call::Forkchoice { .. }));
        unknown["parentProposerPubKey"] = json!("0x00");
        assert!(matches!(update(unknown), Call::NotUnderstood { .. }));
        let mut later = attributes();
        later["slotNumber"] = json!("0x1");
        assert!(matches!(update(later), Call::NotUnderstood { .. }));
    }

    fn update_p11(attributes: serde_json::Value) -> Call {
        let state =
            json!({ "headBlockHash": HASH, "safeBlockHash": HASH, "finalizedBlockHash": HASH });
        parse("engine_forkchoiceUpdatedV3P11", json!([state, attributes]))
    }

    #[test]
    fn berachains_update_carries_the_key_and_may_carry_what_newer_clients_send() {
        let key = ProposerPublicKey::repeat_byte(7);
        let mut attributes = attributes();
        attributes["parentProposerPubKey"] = json!(key);
        for (name, value) in [("slotNumber", json!("0x9")), ("targetGasLimit", json!("0x2255100"))]
        {
            let Call::Forkchoice { call, .. } = update_p11(attributes.clone()) else {
                panic!("not read: {attributes}")
            };
            assert_eq!(call.version, ForkchoiceVersion::V3P11);
            assert_eq!(call.parent_proposer_pubkey, Some(key));
            attributes[name] = value;
        }
        let Call::Forkchoice { call, .. } = update_p11(attributes.clone()) else {
            panic!("not read: {attributes}")
        };
        assert_eq!(call.attributes.unwrap().target_gas_limit, Some(36_000_000));
        let Call::Forkchoice { call, .. } = update_p11(json!(null)) else { panic!("not read") };
        assert_eq!((call.attributes, call.parent_proposer_pubkey), (None, None));
        attributes["inclusionList"] = json!([]);
        assert!(matches!(update_p11(attributes), Call::NotUnderstood { .. }));
    }

    #[test]
    fn berachains_update_without_a_key_is_left_to_the_client_to_refuse() {
        assert!(matches!(update_p11(attributes()), Call::NotUnderstood { .. }));
        let mut short = attributes();
        short["parentProposerPubKey"] = json!("0x1234");
        assert!(matches!(update_p11(short), Call::NotUnderstood { .. }));
    }

    #[test]
    fn every_version_that_is_known_is_told_apart() {
        for version in
            [PayloadVersion::V3, PayloadVersion::V4, PayloadVersion::V5, PayloadVersion::V4P11]
        {
            let call = parse(version.get_payload(), json!(["0x0000000000000001"]));
            let Call::GetPayload { version: read, .. } = call else { panic!("not read") };
            assert_eq!(read, version);
        }
    }

    #[test]
    fn attributes_that_lack_something_are_not_understood() {
        for name in ATTRIBUTES_V3 {
            let mut lacking = attributes();
            lacking.as_object_mut().unwrap().remove(name);
            assert!(matches!(update(lacking), Call::NotUnderstood { .. }), "{name}");
        }
    }

    #[test]
    fn a_payload_id_that_is_none_is_not_understood() {
        for params in [json!([]), json!(["0x12"]), json!([5]), json!(null), json!({})] {
            let call = parse("engine_getPayloadV4", params.clone());
            assert!(matches!(call, Call::NotUnderstood { .. }), "{params}");
        }
    }

    #[test]
    fn a_later_version_is_not_understood_and_an_earlier_one_is_not_ours() {
        for later in [
            "engine_getPayloadV6",
            "engine_getPayloadV10",
            "engine_getPayloadV3P11",
            "engine_getPayloadV",
            "engine_forkchoiceUpdatedV4",
            "engine_forkchoiceUpdatedV4P11",
        ] {
            let call = parse(later, json!([]));
            assert!(matches!(call, Call::NotUnderstood { method } if method == later), "{later}");
        }
        for earlier in ["engine_getPayloadV1", "engine_getPayloadV2", "engine_forkchoiceUpdatedV2"]
        {
            assert!(matches!(parse(earlier, json!([])), Call::Other), "{earlier}");
        }
    }

    #[test]
    fn other_methods_batches_notifications_and_rubbish_are_other() {
        assert!(matches!(parse("engine_getPayloadBodiesByHashV1", json!([])), Call::Other));
        assert!(matches!(parse("eth_chainId", json!(null)), Call::Other));
        assert!(matches!(parse("engine_newPayloadV4", json!([])), Call::Other));
        let single = r#"{"id":1,"method":"engine_getPayloadV4","params":["0x0000000000000001"]}"#;
        assert!(matches!(Call::parse(single.as_bytes()), Call::GetPayload { .. }));
        for body in [
            format!("[{single}]"),
            single.replace(r#""id":1,"#, ""),
            r#"[1,"engine_getPayloadV4",["0x0000000000000001"]]"#.to_owned(),
            single.replace(r#""id":1"#, r#""id":1,"method":"eth_chainId""#),
            "{".to_owned(),
            String::new(),
        ] {
            assert!(matches!(Call::parse(body.as_bytes()), Call::Other), "{body}");
        }
    }

    fn forwarded(body: &str) -> Forwarded {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Forwarded { status: StatusCode::OK, content_type: None, body }
    }

    #[test]
    fn only_the_payload_id_of_an_answer_is_replaced() {
        let status = r#"{"status":"VALID","latestValidHash":null,"validationError":null,"x": 1.0}"#;
        let answer = forwarded(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"payloadStatus":{status},"payloadId":null}}}}"#
        ));
        let forkchoice = Forkchoice::parse(&answer).unwrap();
        let id = to_raw_value("odd").unwrap();
        let body = forkchoice.with_payload_id(&id, PayloadId::new([7; 8]));
        assert_eq!(
            body,
            format!(
                r#"{{"jsonrpc":"2.0","id":"odd","result":{{"payloadId":"0x0707070707070707","payloadStatus":{status}}}}}"#
            )
        );
    }

    #[test]
    fn an_error_is_not_an_answer() {
        let error = r#"{"id":1,"error":{"code":-38002,"message":"Invalid forkchoice state"}}"#;
        assert!(Forkchoice::parse(&forwarded(error)).is_none());
    }
}
