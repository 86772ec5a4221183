//! A request from the wire: answered from the records, or asked elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::CNAME},
};
use hickory_server::{
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tracing::debug;

use crate::{
    answer::{Answer, TTL, Zone},
    forward::{ForwardError, Forwarder, Transport},
};

/// The largest UDP answer: what an Ethernet frame holds.
const MAX_UDP: u16 = 1232;
/// How many aliases are followed.
const MAX_ALIASES: usize = 8;

pub(crate) struct Handler {
    pub zone: Zone,
    pub forwarder: Arc<Forwarder>,
    pub turn: AtomicUsize,
}

/// What will be sent.
#[derive(Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn failure(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    fn of(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: message.metadata.authoritative,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        }
    }
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let metadata = &request.metadata;
        if metadata.message_type != MessageType::Query || metadata.op_code != OpCode::Query {
            return Reply::failure(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else {
            return Reply::failure(ResponseCode::FormErr);
        };
        if query.query_class() != DNSClass::IN {
            return Reply::failure(ResponseCode::Refused);
        }
        let (name, ty) = (&query.original().name, query.query_type());
        if self.forwarder.is_probe(name) {
            return Reply::failure(ResponseCode::YXDomain);
        }
        match self
            .zone
            .answer(name, ty, self.turn.fetch_add(1, Ordering::Relaxed))
        {
            Answer::Elsewhere => self.elsewhere(request).await,
            Answer::Alias(target) => self.follow(name, target, ty).await,
            known => self.known(known),
        }
    }

    fn known(&self, answer: Answer) -> Reply {
        let negative = |code| Reply {
            code,
            authoritative: true,
            authorities: vec![self.zone.soa()],
            ..Reply::default()
        };
        match answer {
            Answer::Found {
                answers,
                additionals,
            } => Reply {
                authoritative: true,
                answers,
                additionals,
                ..Reply::default()
            },
            Answer::NoData => negative(ResponseCode::NoError),
            Answer::NoName if self.zone.records.is_synced() => negative(ResponseCode::NXDomain),
            // Not everything is known yet: a failure is tried again, "no such name" would be remembered.
            Answer::NoName | Answer::Elsewhere | Answer::Alias(_) => {
                Reply::failure(ResponseCode::ServFail)
            }
        }
    }

    async fn elsewhere(&self, request: &Request) -> Reply {
        let transport = if request.protocol() == Protocol::Udp {
            Transport::Udp
        } else {
            Transport::Tcp
        };
        match self.forwarder.ask(request.as_slice(), transport).await {
            Ok(message) => Reply::of(message),
            Err(error) => {
                debug!(%error, "a name outside the cluster");
                unresolved(&error)
            }
        }
    }

    /// The alias together with what it leads to: the resolvers of the C libraries don't follow aliases themselves.
    async fn follow(&self, name: &Name, target: Name, ty: RecordType) -> Reply {
        let mut reply = Reply {
            authoritative: true,
            ..Reply::default()
        };
        let (mut name, mut target) = (name.clone(), target);
        for _ in 0..MAX_ALIASES {
            reply.answers.push(Record::from_rdata(
                name,
                TTL,
                RData::CNAME(CNAME(target.clone())),
            ));
            let next =
                match self
                    .zone
                    .answer(&target, ty, self.turn.fetch_add(1, Ordering::Relaxed))
                {
                    Answer::Alias(next) => {
                        (name, target) = (target, next);
                        continue;
                    }
                    Answer::Elsewhere => match self.forwarder.ask_for(target, ty).await {
                        Ok(message) => Reply::of(message),
                        Err(error) => unresolved(&error),
                    },
                    known => self.known(known),
                };
            reply.code = next.code;
            reply.answers.extend(next.answers);
            reply.authorities = next.authorities;
            return reply;
        }
        Reply::failure(ResponseCode::ServFail)
    }
}

/// A name that nobody can be asked about, on a machine without resolvers, is answered as one that doesn't exist: musl
/// waits five seconds for anything else. Without a start of authority nobody remembers it.
fn unresolved(error: &ForwardError) -> Reply {
    Reply::failure(match error {
        ForwardError::NoUpstream => ResponseCode::NXDomain,
        ForwardError::Busy | ForwardError::Ask(..) => ResponseCode::ServFail,
    })
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.truncation = reply.truncated;
        metadata.recursion_available = true;
        // A client that speaks EDNS gets it back, and answers as large as it takes.
        let edns = request.edns.as_ref().map(|theirs| {
            let mut ours = Edns::new();
            ours.set_max_payload(theirs.max_payload().clamp(512, MAX_UDP))
                .set_version(0);
            ours
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let response = builder.build(
            metadata,
            &reply.answers,
            &reply.authorities,
            [],
            &reply.additionals,
        );
        response_handle
            .send_response(response)
            .await
            .unwrap_or_else(|error| {
                debug!(%error, client = %request.src(), "sending an answer");
                let counts = hickory_proto::op::HeaderCounts::default();
                hickory_proto::op::Header { metadata, counts }.into()
            })
    }
}
