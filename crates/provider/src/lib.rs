//! Stand-in until the catalogue lands.
use millgate_types::Operation;
/// A kind of provider.
pub struct ProviderKind {
    /// name
    pub name: String,
    /// base
    pub base_url: Option<String>,
}
impl ProviderKind {
    /// Needs a key.
    pub fn needs_key(&self) -> bool {
        self.name == "openai" || self.name == "anthropic"
    }
    /// Path.
    pub fn path(&self, _o: Operation) -> Option<&str> {
        Some("/x")
    }
}
/// kinds
pub fn kinds() -> &'static [ProviderKind] {
    static K: std::sync::LazyLock<Vec<ProviderKind>> = std::sync::LazyLock::new(|| {
        ["openai", "anthropic", "openai-compatible", "mock", "ollama", "mistral"]
            .into_iter()
            .map(|n| ProviderKind {
                name: n.into(),
                base_url: (n != "openai-compatible").then(|| "http://x".into()),
            })
            .collect()
    });
    &K
}
/// kind
pub fn kind(name: &str) -> Option<&'static ProviderKind> {
    kinds().iter().find(|k| k.name == name)
}
