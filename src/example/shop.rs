//! The `shop` example: three domains, their events as events are in life, and the right answer.
//!
//! ```text
//! INTO/starmere.yaml, streams/, domains/, README.md    from examples/shop
//! INTO/events/customers/*.jsonl                        late, out of order, twice, in two schema versions,
//! INTO/events/products/*.jsonl                         partly broken, about customers and products that
//! INTO/events/orders/*.jsonl                           nobody has announced
//! INTO/events-http/orders.jsonl                        orders that are in no file, to be posted
//! INTO/expected/*.csv                                  what the files should come to
//! INTO/expected/with_http/*.csv                        and with the posted orders
//! ```
//!
//! The same size and seed give the same bytes. A folder that has any of these files already is refused before
//! anything is written ([`in_the_way`]); so is one with events, because files of a larger shop would stay among
//! those of a smaller one. After a crash the folder is incomplete: remove it.

mod amount;
mod catalog;
mod customers;
mod definitions;
mod expected;
mod json;
mod lines;
mod orders;
mod random;
mod time;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::expected::Stream;
use self::lines::Written;
use self::orders::Checkout;
use self::random::Random;

/// How large a shop: the number of orders in files. Customers, products and the posted batch (a hundredth of
/// the orders) follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) orders: u32,
}

impl Default for Size {
    fn default() -> Self {
        Self { orders: 10_000 }
    }
}

/// What was written: lines by stream, copies and broken ones included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) customers: u64,
    pub(crate) products: u64,
    pub(crate) orders: u64,
    /// Lines of `events-http/orders.jsonl`.
    pub(crate) orders_to_post: u64,
    /// Files with events, the one to post included, and their size.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// The first file or folder that the example would write over or among.
pub(crate) fn in_the_way(into: &Path) -> Option<PathBuf> {
    let folders = ["events", "events-http", "expected"].map(|folder| into.join(folder));
    let taken = definitions::in_the_way(into).or_else(|| folders.into_iter().find(|path| path.exists()));
    let is_no_folder = into.exists() && !into.is_dir();
    if is_no_folder { Some(into.to_path_buf()) } else { taken }
}

/// Writes the project into the folder, which is created if need be. Everything is held in memory meanwhile:
/// some hundred bytes an order.
pub(crate) fn generate(into: &Path, size: Size, seed: u64) -> io::Result<Summary> {
    let events = into.join("events");
    if let Some(path) = in_the_way(into) {
        let message = format!("`{}` exists already", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    fs::create_dir_all(into)?;
    fs::create_dir(&events)?;
    definitions::write(into)?;
    let count = size.orders as usize;
    let customers = customers::draw(count, &mut Random::of(seed, 1));
    let catalog = catalog::draw(count, &mut Random::of(seed, 2));
    let announced = customers.registered.len();
    let strangers = (announced / 60).max(3);
    let in_shop = Checkout { customers: &customers, catalog: &catalog, strangers: announced..announced + strangers };
    let mut orders = in_shop.draw(count, 1, &mut Random::of(seed, 3));
    orders::contradict(&mut orders, &mut Random::of(seed, 4));
    let in_files = orders.len();
    // The posted orders have strangers of their own.
    let posting = Checkout { strangers: announced + strangers..announced + 2 * strangers, ..in_shop };
    orders.extend(posting.draw((count / 100).max(10), in_files as u32 + 1, &mut Random::of(seed, 5)));

    let seed_of = |stream| Random::of(seed, stream).next();
    let customer_files = lines::write_files(&events.join("customers"), "customers", &customers.events, seed_of(6))?;
    let product_files = lines::write_files(&events.join("products"), "products", &catalog.events, seed_of(7))?;
    let order_files = lines::write_files(&events.join("orders"), "orders", &orders[..in_files], seed_of(8))?;
    fs::create_dir_all(into.join("events-http"))?;
    let posted = lines::write_batch(&into.join("events-http/orders.jsonl"), &orders, in_files, seed_of(8))?;

    let customer_stream = Stream { events: &customers.events, written: vec![&customer_files] };
    let product_stream = Stream { events: &catalog.events, written: vec![&product_files] };
    let mut order_stream = Stream { events: &orders, written: vec![&order_files] };
    let expected = into.join("expected");
    expected::write(&expected, &customer_stream, &product_stream, &order_stream)?;
    order_stream.written.push(&posted);
    expected::write(&expected.join("with_http"), &customer_stream, &product_stream, &order_stream)?;

    let all = [&customer_files, &product_files, &order_files, &posted];
    let sum = |of: fn(&Written) -> u64| all.into_iter().map(of).sum();
    Ok(Summary {
        customers: customer_files.lines,
        products: product_files.lines,
        orders: order_files.lines,
        orders_to_post: posted.lines,
        files: sum(|written| written.files),
        bytes: sum(|written| written.bytes),
    })
}

#[cfg(test)]
mod tests;
