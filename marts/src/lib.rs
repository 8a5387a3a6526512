//! Marts: data products, with ports, contracts and versions.
//!
//! | module | holds |
//! | --- | --- |
//! | [`define`] | what `products/*.yaml` say |
//! | [`resolve`] | products whose columns, keys and references exist in the models |
//! | [`contract`] | whether rows keep what a port promises; asked before they are published |
//! | [`meaning`] | what a catalog snapshot says of its tables, for servers that have no definitions |

pub mod contract;
pub mod define;
pub mod meaning;
pub mod resolve;
