//! The configuration document: read YAML in any of the accepted forms, report every problem with its place,
//! give one canonical [`Config`]. Must not start, connect to or write anything; environment variables and
//! secret files are the only things it reads besides the document.

mod access;
mod check;
mod credential;
mod document;
mod forms;
mod limits;
mod load;
mod node;
mod route;
mod schedule;
mod schema;
mod serving;
mod value;

pub use access::{
    CertificatesConfig, ClientCertificates, IntrospectionConfig, IssuerConfig, RoleRuleConfig, SignOnConfig,
    TlsConfig, TrustedProxiesConfig,
};
pub use credential::{AwsConfig, CredentialConfig, EntraConfig, GoogleConfig, OauthConfig};
pub use document::{
    AccessConfig, AccessLog, AuditConfig, Capability, CatalogueConfig, ChatApi, Compat, Config,
    EndpointConfig, EndpointType, EnvManager, InstanceClass, Isolation, KeyConfig, KeyMode, LogConfig,
    ModelConfig, ModelsConfig, NativeConfig, Network, OwnerConfig, ProviderConfig, RegistryConfig, Role,
    RuntimeChoice, ServerConfig, ServingConfig, TokenPrices,
};
pub use limits::{
    BudgetConfig, BudgetKind, LimitConfig, OnError, PredictionPrice, Selector, SharedConfig, Sharer, Sharers,
    Unpriced, Usd, WindowKind,
};
pub use load::{Form, Loaded, Problem, Severity, load, load_environment};
pub use route::{
    CaseConfig, CombineBy, Else, EnsembleConfig, RouteConfig, Split, StepConfig, SwitchConfig, SwitchPer,
};
pub use schedule::{ClockTime, Days, ScheduleConfig, Zone};
pub use schema::json_schema;
pub use serving::{BatchingConfig, BulkConfig, InstancesConfig};
pub use value::{ByteSize, Expanded, Period, Secret};
