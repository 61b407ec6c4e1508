//! From frames to what they mean.

use super::{
    CONFIRMATION_TIMEOUT, Inbound, MAX_CLIENT_FRAME_BYTES, MAX_PEER_FRAME_BYTES, MessageBus,
    PEER_USER_TIMEOUT, Party,
};
use crate::net::{CloseCause, ConnectionId, Socket};
use crate::replica::{ClientConnection, Transport};
use crate::types::Revision;
use crate::wire::client::{Refused, Request, RequestError, Response, ResponseBody};
use crate::wire::frame::{Frame, FrameKind};
use crate::wire::hello::{ClientHello, Confirmation, Inquiry, PeerHello, Refusal, RefusalReason};
use crate::wire::peer::Message;
use crate::wire::{DecodeError, Reader};

impl<S: Socket> MessageBus<S> {
    /// One frame has arrived. The connection may have ended by an earlier frame of the same read.
    pub(super) fn on_frame(&mut self, id: ConnectionId, frame: Frame) {
        let Some((_, visitor)) = self.connections.get(id) else { return };
        let Frame { kind, payload } = frame;
        match (visitor.party, kind) {
            (Party::Dismissed, _) => {}
            (Party::Unknown, FrameKind::PeerHello) => self.on_peer_hello(id, None, payload),
            (Party::Dialled(entry), FrameKind::PeerHello) => self.on_peer_hello(id, Some(entry), payload),
            (Party::Peer, FrameKind::PeerHello) => self.on_peer_hello(id, None, payload),
            (Party::Unknown, FrameKind::Inquiry) => self.on_inquiry(id, payload),
            (Party::Inquiring(entry), FrameKind::Confirmation) => self.on_confirmation(id, entry, payload),
            (Party::Peer, FrameKind::Message) => self.on_message(id, payload),
            (Party::Dialled(_) | Party::Peer, FrameKind::Refusal) => self.on_refusal(id, payload),
            (Party::Unknown, FrameKind::ClientHello) => self.on_client_hello(id, payload),
            (Party::Client, FrameKind::Request) => self.on_request(id, payload),
            (_, kind) => self.refuse_malformed(id, &format!("no frame of kind {kind:?} is expected here")),
        }
    }

    fn on_peer_hello(&mut self, id: ConnectionId, entry: Option<usize>, payload: bytes::Bytes) {
        let hello = match decode_all(payload, PeerHello::decode) {
            Ok(hello) => hello,
            Err(error) => return self.refuse_malformed(id, &format!("introduction: {error}")),
        };
        match self.peers.on_hello(self.now, id, entry, hello) {
            Err(refusal) => self.refuse(id, refusal),
            Ok(()) if self.peers.is_handshaken(id) => {
                self.become_party(id, Party::Peer, MAX_PEER_FRAME_BYTES)
            }
            Ok(()) if self.peers.is_claim(id) => self.become_claimant(id),
            // A duplicate, or this node itself: an effect will close it.
            Ok(()) => {}
        }
    }

    fn become_claimant(&mut self, id: ConnectionId) {
        if let Some((_, visitor)) = self.connections.get_mut(id) {
            visitor.party = Party::Claimant;
        }
        self.set_deadline(id, CONFIRMATION_TIMEOUT);
        if let Some(oldest) = self.admission.on_claim(id) {
            self.close(oldest, &CloseCause::Overdue("not confirmed while others waited"));
        }
    }

    /// Somebody wants to know which dials are this node's.
    fn on_inquiry(&mut self, id: ConnectionId, payload: bytes::Bytes) {
        match decode_all(payload, Inquiry::decode) {
            Ok(inquiry) => {
                let confirmation = self.peers.confirmation(&inquiry);
                self.queue(id, FrameKind::Confirmation, |out| confirmation.encode(out));
                self.dismiss(id);
            }
            Err(error) => self.refuse_malformed(id, &format!("inquiry: {error}")),
        }
    }

    fn on_confirmation(&mut self, id: ConnectionId, entry: usize, payload: bytes::Bytes) {
        match decode_all(payload, Confirmation::decode) {
            Ok(confirmation) => {
                self.peers.on_confirmation(self.now, entry, &confirmation);
                self.close(id, &CloseCause::EndOfStream);
            }
            Err(error) => self.refuse_malformed(id, &format!("confirmation: {error}")),
        }
    }

    fn on_client_hello(&mut self, id: ConnectionId, payload: bytes::Bytes) {
        if let Err(error) = decode_all(payload, ClientHello::decode) {
            return self.refuse_malformed(id, &format!("introduction: {error}"));
        }
        if !self.admission.admit_client() {
            let most = self.admission.limits().clients;
            let message =
                format!("as many clients as may be are connected, which is {most}: try again later");
            return self.refuse(id, Refusal { reason: RefusalReason::Busy, message });
        }
        self.become_party(id, Party::Client, MAX_CLIENT_FRAME_BYTES);
        self.watch_idleness(id);
        self.inbox.push_back(Inbound::ClientHello(ClientConnection(id.to_u64())));
    }

    /// The other end has introduced itself: from now on its larger frames are taken.
    pub(super) fn become_party(&mut self, id: ConnectionId, party: Party, frame_limit: u32) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        if visitor.party == party {
            return;
        }
        visitor.party = party;
        connection.set_frame_limit(frame_limit);
        if party == Party::Peer
            && let Err(error) = connection.set_user_timeout(PEER_USER_TIMEOUT)
        {
            log::debug!("a link has no timeout of its own: {error}"); // it has that of all connections
        }
        self.admission.forget(id);
        self.clear_deadline(id);
        self.enlist(id);
    }

    fn on_refusal(&mut self, id: ConnectionId, payload: bytes::Bytes) {
        let message = match decode_all(payload, Refusal::decode) {
            Ok(refusal) => refusal.line(),
            Err(error) => format!("for a reason that cannot be read ({error})"),
        };
        let line = match self.connections.get(id).map(|(_, visitor)| visitor.party) {
            Some(Party::Dialled(entry)) => {
                format!("{} refuses this node: {message}", self.peers.address(entry))
            }
            _ => format!("a node ends its link to this node: {message}"),
        };
        self.complaints.warn(self.now, line);
        self.close(id, &CloseCause::Refusal);
    }

    fn on_message(&mut self, id: ConnectionId, payload: bytes::Bytes) {
        let message = match Message::decode(payload) {
            Ok(message) => message,
            Err(error) => return self.refuse_malformed(id, &format!("message: {error}")),
        };
        // Before the founding a node may talk to us that we have not met ourselves. It is not
        // believed; once we have met it, it says the same again.
        let Some(from) = self.peers.node_behind(id) else { return };
        self.inbox.push_back(Inbound::Message(from, message));
    }

    fn on_request(&mut self, id: ConnectionId, payload: bytes::Bytes) {
        let client = ClientConnection(id.to_u64());
        self.note_request(id);
        match Request::decode(payload) {
            Ok(request) => self.inbox.push_back(Inbound::Request(client, request)),
            Err(RequestError { id: Some(request), error }) => {
                let body = ResponseBody::Refused(refused(&error));
                // The answer reflects no state at all.
                self.reply(client, &Response { id: request, revision: Revision(0), body });
            }
            Err(RequestError { id: None, error }) => {
                self.refuse_malformed(id, &format!("request: {error}"));
            }
        }
    }

    fn refuse_malformed(&mut self, id: ConnectionId, message: &str) {
        self.refuse(id, Refusal { reason: RefusalReason::Malformed, message: message.to_owned() });
    }
}

fn refused(error: &DecodeError) -> Refused {
    match error {
        DecodeError::TooLong { .. } => Refused::TooLarge(error.to_string()),
        _ => Refused::Malformed(error.to_string()),
    }
}

fn decode_all<T>(
    payload: bytes::Bytes,
    decode: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut bytes = Reader::new(payload);
    let value = decode(&mut bytes)?;
    bytes.finish()?;
    Ok(value)
}
