//! The configuration document: read YAML in any of the accepted forms, report every problem with its place,
//! give one canonical [`Config`]. Must not start, connect to or write anything; environment variables and
//! secret files are the only things it reads besides the document.

mod access;
mod audit;
mod check;
mod credential;
mod document;
mod forms;
mod keys;
mod limits;
mod load;
mod mask;
mod node;
mod provider;
mod reference;
mod route;
mod schedule;
mod schema;
mod secrets;
mod serving;
mod upkeep;
mod value;

pub use access::{
    CertificatesConfig, ClientCertificates, IntrospectionConfig, IssuerConfig, RoleRuleConfig, SignOnConfig,
    TlsConfig, TrustedProxiesConfig,
};
pub use audit::{
    AuditConfig, AuditContent, AuditOnError, AuditSink, AuditStdout, AuditSyslog, AuditWebhook, EndpointAudit,
};
pub use credential::{AwsConfig, CredentialConfig, EntraConfig, GoogleConfig, OauthConfig};
pub use document::{
    AccessLog, Config, EndpointConfig, EndpointType, InstanceClass, Isolation, LogConfig, ModelsConfig,
    NativeConfig, RegistryConfig, ServerConfig,
};
pub use keys::{AccessConfig, KeyConfig, KeyMode, OwnerConfig, Role};
pub use limits::{
    BudgetConfig, BudgetKind, LedgerConfig, LedgerMode, LimitConfig, OnError, PredictionPrice, QueueConfig,
    Selector, SharedConfig, Sharer, Sharers, Unpriced, Usd, WindowKind,
};
pub use load::{Form, Loaded, Problem, Severity, load, load_environment, load_with};
pub use mask::MASK;
pub use provider::{Capability, CatalogueConfig, ChatApi, ModelConfig, ProviderConfig, TokenPrices};
pub use reference::{Kept, Values, is_secret_name};
pub use route::{
    CaseConfig, CombineBy, Else, EnsembleConfig, RouteConfig, Split, StepConfig, SwitchConfig, SwitchPer,
};
pub use schedule::{ClockTime, Days, ScheduleConfig, Zone};
pub use schema::json_schema;
pub use secrets::{SecretsConfig, VaultConfig, VaultKubernetes};
pub use serving::{
    BatchingConfig, BulkConfig, Compat, EnvManager, InstancesConfig, Network, RuntimeChoice, ServingConfig,
};
pub use upkeep::{BreakerConfig, Pacing, ProviderKey, RetriesConfig};
pub use value::{ByteSize, Expanded, Period, Secret};
