//! The project's definitions, which live in `examples/shop` where people can read them.

use std::fs;
use std::io;
use std::path::Path;

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../../examples/shop/", $path)))),*]
    };
}

const FILES: [(&str, &str); 17] = files![
    "README.md",
    "starmere.yaml",
    "streams/customers.yaml",
    "streams/products.yaml",
    "streams/orders.yaml",
    "domains/customers/models/customer.yaml",
    "domains/customers/products/customers_v1.yaml",
    "domains/catalog/models/department.yaml",
    "domains/catalog/models/category.yaml",
    "domains/catalog/models/product.yaml",
    "domains/catalog/products/products_v1.yaml",
    "domains/sales/models/date.yaml",
    "domains/sales/models/order_lines.yaml",
    "domains/sales/models/priced_lines.yaml",
    "domains/sales/models/orders.yaml",
    "domains/sales/products/orders_v1.yaml",
    "domains/sales/products/orders_v2.yaml",
];

/// Writes them, over older ones.
pub(super) fn write(into: &Path) -> io::Result<()> {
    for (path, content) in FILES {
        let path = into.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, content)?;
    }
    Ok(())
}
