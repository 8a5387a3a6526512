//! Data products: contracts, versions, quality, service levels, policies.
