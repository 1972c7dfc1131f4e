//! The committed output of `preconf-codegen`.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::wildcard_enum_match_arm,
    clippy::redundant_clone,
    reason = "generated"
)]

pub(crate) mod types {
    pub(crate) mod v1 {
        include!("gen/preconf.types.v1.rs");
    }
}
pub(crate) mod feed {
    pub(crate) mod v1 {
        include!("gen/preconf.feed.v1.rs");
    }
}
pub(crate) mod signer {
    pub(crate) mod v1 {
        include!("gen/preconf.signer.v1.rs");
    }
}
pub(crate) mod builder {
    pub(crate) mod v1 {
        include!("gen/preconf.builder.v1.rs");
    }
}
pub(crate) mod pending {
    pub(crate) mod v1 {
        include!("gen/preconf.pending.v1.rs");
    }
}
pub(crate) mod admin {
    pub(crate) mod v1 {
        include!("gen/preconf.admin.v1.rs");
    }
}
pub(crate) mod payload {
    pub(crate) mod v1 {
        include!("gen/preconf.payload.v1.rs");
    }
}
