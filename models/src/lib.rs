//! Models: derives dimensions and facts from events, by declaration.
//!
//! | module | holds |
//! | --- | --- |
//! | [`define`] | what the files say, with places |
//! | [`resolve`] | names, types and SQL checked: models that can be built, in order |
//! | [`expression`] | SQL over columns, immutable functions only, row errors kept apart |
//! | [`events`] | the lake as models see it: deduplicated, upcast, typed |
//! | [`keys`] | surrogate keys |
//! | [`dimension`] | change logs, versions, as-of look-ups |
//! | [`fact`] | rows, and keying them again |
//! | [`sql_model`] | what a SELECT over other models says |
//! | [`infer`] | what payloads seem to be that nobody described |
//! | [`generated`] | dimensions that need no events: days, times of day, bands |
//! | [`rejects`] | what a model could not read |
//! | [`reread`] | streams that were reread, and the tables that are filled again for it |
//! | [`build`] | what is out of date, and bringing it up to date |

pub mod build;
pub mod define;
mod derived;
pub mod dimension;
mod error;
pub mod events;
pub mod expression;
pub mod fact;
pub mod generated;
pub mod infer;
pub mod keys;
pub mod rejects;
pub mod reread;
pub mod resolve;
pub mod sql_model;

pub use error::{Error, Result};
