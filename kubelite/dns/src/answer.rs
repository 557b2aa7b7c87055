//! From a query and the zone to an answer. Pure.

use std::str::FromStr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::zone::{Data, Found, Zone};

/// How long others may keep an answer, in seconds: so long a change stays unseen.
const TTL: u32 = 5;
/// What is said of the largest datagram: no fragments on usual paths (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// How many aliases in a row are followed within the zone.
const MAX_ALIASES: usize = 8;

/// What is to be done with a query.
#[derive(Debug)]
pub enum Step {
    /// This is the answer.
    Answer(Message),
    /// The zone doesn't know the name: others are to be asked.
    Forward,
    /// The answer so far ends in an alias for this name elsewhere, whose records belong to it.
    Follow(Message, Name),
}

/// Looks at a query. `turn` changes with every query, so that the order of addresses does.
pub fn step(zone: &Zone, query: &Message, turn: usize) -> Step {
    let mut answer = response(query);
    let [question] = query.queries.as_slice() else { return refuse(answer, ResponseCode::FormErr) };
    if query.metadata.op_code != OpCode::Query {
        return refuse(answer, ResponseCode::NotImp);
    }
    if question.query_class() != DNSClass::IN {
        return refuse(answer, ResponseCode::Refused);
    }
    if query.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return refuse(answer, ResponseCode::BADVERS);
    }
    let mut name = question.name().clone();
    for _ in 0..MAX_ALIASES {
        let records = match zone.find(&text(&name)) {
            Found::Foreign if answer.answers.is_empty() => return Step::Forward,
            Found::Foreign => return Step::Follow(answer, name),
            Found::Nothing => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                break;
            }
            Found::Records(records) => records,
        };
        answer.metadata.authoritative = true;
        if let [Data::Alias(target)] = records.as_slice()
            && let Ok(target) = Name::from_str(&format!("{target}."))
        {
            answer.add_answer(Record::from_rdata(name, TTL, RData::CNAME(CNAME(target.clone()))));
            if question.query_type() == RecordType::CNAME {
                break;
            }
            name = target;
            continue;
        }
        add(&mut answer, zone, question, &name, records, turn);
        break;
    }
    if answer.answers.is_empty() {
        answer.metadata.authoritative = true;
        answer.authorities.extend(soa(zone));
    }
    Step::Answer(answer)
}

/// An answer to a query that says that it couldn't be answered.
pub fn failure(query: &Message, code: ResponseCode) -> Message {
    let mut answer = response(query);
    answer.metadata.response_code = code;
    answer
}

/// The query as bytes fit for a datagram of the size that the client takes, cut if need be.
pub fn datagram(query: &Message, answer: &Message) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    let most = usize::from(query.max_payload().min(PAYLOAD));
    if bytes.len() <= most { Some(bytes) } else { answer.truncate().to_vec().ok() }
}

/// A name as the zone has it.
pub fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_lowercase()
}

fn response(query: &Message) -> Message {
    let mut answer = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    // As it was asked, letter by letter: some clients check that their mixed case comes back.
    answer.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD).set_version(0);
        answer.set_edns(edns);
    }
    answer
}

fn refuse(mut answer: Message, code: ResponseCode) -> Step {
    answer.metadata.response_code = code;
    if let Some(edns) = &mut answer.edns {
        edns.set_rcode_high(code.high());
    }
    Step::Answer(answer)
}

fn add(
    answer: &mut Message,
    zone: &Zone,
    question: &Query,
    name: &Name,
    mut records: Vec<Data>,
    turn: usize,
) {
    let apex = text(name) == zone.domain();
    if apex && question.query_type() == RecordType::SOA {
        answer.answers.extend(soa(zone));
        return;
    }
    if apex && question.query_type() == RecordType::NS {
        let server = Name::from_str(&format!("ns.dns.{}.", zone.domain()));
        answer
            .answers
            .extend(server.map(|server| Record::from_rdata(name.clone(), TTL, RData::NS(NS(server)))));
        return;
    }
    if !records.is_empty() {
        let by = turn % records.len();
        records.rotate_left(by);
    }
    let wanted = question.query_type();
    for data in records {
        let host = match &data {
            Data::Srv(_, host) => Some(host.clone()),
            _ => None,
        };
        let Some(data) = rdata(data).filter(|data| wanted == RecordType::ANY || data.record_type() == wanted)
        else {
            continue;
        };
        answer.add_answer(Record::from_rdata(name.clone(), TTL, data));
        // The host's address goes along, so that nobody has to ask again (RFC 2782).
        let Some((host, name)) =
            host.and_then(|host| Some((Name::from_str(&format!("{host}.")).ok()?, host)))
        else {
            continue;
        };
        if let Found::Records(addresses) = zone.find(&name) {
            let addresses = addresses.into_iter().filter(|data| matches!(data, Data::A(_))).filter_map(rdata);
            answer.add_additionals(addresses.map(|data| Record::from_rdata(host.clone(), TTL, data)));
        }
    }
}

fn rdata(data: Data) -> Option<RData> {
    let name = |text: String| Name::from_str(&format!("{text}.")).ok();
    Some(match data {
        Data::A(ip) => RData::A(A(ip)),
        Data::Srv(port, host) => RData::SRV(SRV::new(0, 100, port, name(host)?)),
        Data::Alias(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Text(text) => RData::TXT(TXT::new(vec![text])),
    })
}

/// Says for how long it may be remembered that there is nothing (RFC 2308).
fn soa(zone: &Zone) -> Option<Record> {
    let name = |prefix: &str| Name::from_str(&format!("{prefix}{}.", zone.domain())).ok();
    let soa = SOA::new(name("ns.dns.")?, name("hostmaster.")?, 1, 7200, 1800, 86400, TTL);
    Some(Record::from_rdata(name("")?, TTL, RData::SOA(soa)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;
    use std::sync::Arc;

    fn zone() -> Zone {
        let service = |name: &str, spec: serde_json::Value| -> Arc<Service> {
            let object = json!({ "metadata": {"name": name, "namespace": "shop"}, "spec": spec });
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let services = [
            service("web", json!({ "clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}] })),
            service("same", json!({ "type": "ExternalName", "externalName": "web.shop.svc.cluster.local" })),
            service("out", json!({ "type": "ExternalName", "externalName": "example.test" })),
            service("ring", json!({ "type": "ExternalName", "externalName": "ring.shop.svc.cluster.local" })),
        ];
        Zone::new("cluster.local", &services, &[])
    }

    fn ask(name: &str, kind: RecordType) -> Step {
        let mut query = Message::new(1, MessageType::Query, OpCode::Query);
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        step(&zone(), &query, 0)
    }

    fn answered(name: &str, kind: RecordType) -> Message {
        match ask(name, kind) {
            Step::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_answered_whatever_their_case_and_types_that_are_not_there_are_empty() {
        let answer = answered("Web.SHOP.svc.cluster.local.", RecordType::A);
        assert_eq!((answer.answers.len(), answer.answers[0].ttl), (1, TTL));
        assert_eq!(answer.queries[0].name().to_ascii(), "Web.SHOP.svc.cluster.local.", "as it was asked");
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        let srv = answered("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV);
        assert_eq!((srv.answers.len(), srv.additionals.len()), (1, 1));
        for (name, kind, code) in [
            ("web.shop.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError),
            ("shop.svc.cluster.local.", RecordType::A, ResponseCode::NoError),
            ("no.shop.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ] {
            let answer = answered(name, kind);
            assert_eq!(
                (answer.metadata.response_code, answer.answers.len(), answer.authorities.len()),
                (code, 0, 1),
                "{name}"
            );
        }
    }

    #[test]
    fn aliases_are_followed_within_the_zone_and_handed_on_outside_of_it() {
        let answer = answered("same.shop.svc.cluster.local.", RecordType::A);
        assert_eq!(
            answer.answers.iter().map(Record::record_type).collect::<Vec<_>>(),
            [RecordType::CNAME, RecordType::A]
        );
        let Step::Follow(answer, name) = ask("out.shop.svc.cluster.local.", RecordType::A) else {
            panic!("not followed")
        };
        assert_eq!((answer.answers.len(), name.to_ascii()), (1, "example.test.".into()));
        assert!(answered("ring.shop.svc.cluster.local.", RecordType::A).answers.len() <= MAX_ALIASES);
        assert!(matches!(ask("example.test.", RecordType::A), Step::Forward));
    }

    #[test]
    fn what_is_no_query_for_us_is_refused_and_large_answers_are_cut() {
        let mut query = Message::new(1, MessageType::Query, OpCode::Status);
        let code = |query: &Message| match step(&zone(), query, 0) {
            Step::Answer(answer) => answer.metadata.response_code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&query), ResponseCode::FormErr);
        query.add_query(Query::query(Name::root(), RecordType::A));
        assert_eq!(code(&query), ResponseCode::NotImp);
        let mut answer = failure(&query, ResponseCode::NoError);
        for last in 0..100 {
            answer.add_answer(Record::from_rdata(Name::root(), TTL, RData::A(A::new(10, 0, 0, last))));
        }
        let cut = Message::from_vec(&datagram(&query, &answer).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
    }
}
