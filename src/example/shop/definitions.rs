//! The project's definitions, which live in `examples/shop` where people can read them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../../examples/shop/", $path)))),*]
    };
}

const FILES: [(&str, &str); 19] = files![
    "README.md",
    "starmere.yaml",
    "streams/customers.yaml",
    "streams/products.yaml",
    "streams/orders.yaml",
    "domains/customers/models/customer.yaml",
    "domains/customers/products/customers_v1.yaml",
    "domains/customers/tests/late_move.yaml",
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
    "domains/sales/tests/lines.yaml",
];

/// The first of them that is there already, or a file where one of their folders belongs.
pub(super) fn in_the_way(into: &Path) -> Option<PathBuf> {
    FILES.into_iter().find_map(|(path, _)| {
        let folders = Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
        let blocked = folders.map(|folder| into.join(folder)).find(|folder| folder.exists() && !folder.is_dir());
        let path = into.join(path);
        blocked.or_else(|| path.symlink_metadata().is_ok().then_some(path))
    })
}

/// Writes them; [`in_the_way`] has said that nothing is overwritten.
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
