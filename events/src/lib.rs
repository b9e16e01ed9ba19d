//! The wire contract: CloudEvents on NATS, the shop's three events, and dead letters.
//!
//! No client and no runtime: bytes and headers in, values out, and back.
#![deny(missing_docs, clippy::wildcard_enum_match_arm)]
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod dead_letter;
mod decode;
mod encode;
mod error;
mod event;
mod headers;
mod id;
mod json;
mod money;
mod origin;
mod reason;
mod replay;
mod shop;
mod structured;
mod trace;

pub use crate::{
    dead_letter::{DeadLetter, DeadLetterError},
    error::{DecodeError, EncodeError},
    event::Event,
    headers::{Headers, UNREADABLE},
    id::{EventId, InvalidId},
    money::{InvalidMoney, Money},
    origin::{BrokerKind, Origin},
    reason::Reason,
    replay::{replays, taken_out, taken_out_mark},
    shop::{Item, Meta, OrderPlaced, OrderShipped, PaymentProcessed, PaymentStatus, ShopEvent},
    trace::{InvalidTraceParent, TraceContext},
};
