//! (draft)
mod admission;
mod complaints;
pub mod config;
mod dialler;
mod founding;
mod message_bus;
mod peers;
