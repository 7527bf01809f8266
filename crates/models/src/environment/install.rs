//! Running the programs that build an environment, confined, and what they say when they fail.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::progress::{self, Progress};
use crate::settings::ModelSettings;
use crate::worker::exec::Launch;

/// Where the index is, how to get there and who vouches for it: the operator's choice, not secrets of ours.
const INDEX: &[&str] = &[
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_CONFIG_FILE",
    "PIP_CERT",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Runs `uv`, `venv` and `pip` through the launcher: they write the environment, their cache and a private folder,
/// and nothing else.
pub(super) struct Installer<'a> {
    pub(super) settings: &'a ModelSettings,
    pub(super) progress: &'a Progress,
    pub(super) private: tempfile::TempDir,
    pub(super) writable: Vec<PathBuf>,
    pub(super) readable: Vec<PathBuf>,
}

impl Installer<'_> {
    pub(super) async fn by_uv(
        &self,
        uv: &Path,
        base: &Path,
        python: &Path,
        requirements: &str,
        pins: &Path,
    ) -> Result<(), String> {
        let disk = |error: std::io::Error| format!("the environment folder: {}", error.kind());
        let folder = python.parent().and_then(Path::parent).unwrap_or(python);
        let venv = ["venv", "--quiet", "--no-project", "--python"].map(OsStr::new);
        self.progress.step("making a virtual environment");
        self.run(uv, venv.into_iter().chain([base.as_os_str(), folder.as_os_str()])).await?;
        let at = [OsStr::new("--python"), python.as_os_str()];
        // Resolved once: a later build of the same requirements installs these very files or nothing.
        if !pins.is_file() {
            let (list, made) = (self.private.path().join("list.txt"), self.private.path().join("pins.txt"));
            std::fs::write(&list, requirements).map_err(disk)?;
            let compile = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--generate-hashes"];
            let compile = compile.map(OsStr::new).into_iter().chain(at).chain(self.sources());
            let files = [OsStr::new("-o"), made.as_os_str(), list.as_os_str()];
            self.progress.step("resolving the requirements");
            self.run(uv, compile.chain(files)).await?;
            let text = std::fs::read(&made).map_err(disk)?;
            let mut file = tempfile::NamedTempFile::new_in(self.private.path()).map_err(disk)?;
            std::io::Write::write_all(&mut file, &text).map_err(disk)?;
            file.persist(pins).map_err(|error| disk(error.error))?;
        }
        let copy = self.private.path().join("install.txt");
        std::fs::copy(pins, &copy).map_err(disk)?;
        let pinned = std::fs::read_to_string(pins).map_or(0, |text| progress::pinned(&text));
        self.progress.installing(folder.to_owned(), pinned);
        let sync = ["pip", "sync", "--quiet", "--require-hashes"].map(OsStr::new);
        self.run(uv, sync.into_iter().chain(at).chain(self.sources()).chain([copy.as_os_str()])).await
    }

    pub(super) async fn by_pip(
        &self,
        base: &Path,
        folder: &Path,
        python: &Path,
        requirements: &str,
    ) -> Result<(), String> {
        let list = self.private.path().join("list.txt");
        std::fs::write(&list, requirements)
            .map_err(|error| format!("the environment folder: {}", error.kind()))?;
        self.progress.step("making a virtual environment");
        self.run(base, ["-I", "-m", "venv"].map(OsStr::new).into_iter().chain([folder.as_os_str()])).await?;
        let install = ["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        let install = install.map(OsStr::new).into_iter().chain(self.sources());
        self.progress.step("resolving and installing the requirements");
        self.run(python, install.chain([OsStr::new("-r"), list.as_os_str()])).await
    }

    /// Wheels only: a source package would run its own code while it is built.
    fn sources(&self) -> impl Iterator<Item = &OsStr> {
        let wheels = self
            .settings
            .wheelhouse
            .as_deref()
            .map(|wheels| [OsStr::new("--no-index"), OsStr::new("--find-links"), wheels.as_os_str()]);
        ["--only-binary", ":all:"].map(OsStr::new).into_iter().chain(wheels.into_iter().flatten())
    }

    async fn run<'s>(&self, program: &Path, args: impl Iterator<Item = &'s OsStr>) -> Result<(), String> {
        let private = self.private.path();
        let mut readable = self.readable.clone();
        readable.extend(["/etc/uv", "/etc/pip.conf", "/etc/xdg"].map(PathBuf::from));
        readable.extend(self.settings.wheelhouse.clone());
        // `uv` may lie beside other programs; only itself is needed.
        readable.push(program.to_owned());
        readable.extend(program.canonicalize());
        let mut command = Command::new(&self.settings.launcher);
        command.env_clear();
        for name in INDEX.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]) {
            let Some(value) = std::env::var_os(&name) else { continue };
            let path = PathBuf::from(&value);
            if path.is_absolute() {
                readable.push(path);
            }
            command.env(name, value);
        }
        let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
        let launch = Launch {
            program: program.to_owned(),
            args,
            private: private.to_owned(),
            writable: self.writable.clone(),
            readable,
            network_allowed: self.settings.wheelhouse.is_none(),
            memory_limit: None,
            user: None,
            processes: None,
            descriptors: 1024,
            threads: 1,
            device: None,
            cores: None,
            keep_environment: true,
            required: self.settings.isolation_required,
        };
        let launch = serde_json::to_string(&launch)
            .map_err(|error| format!("the environment cannot be built ({error})"))?;
        let output = command
            .args(["worker-exec", &launch])
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", private)
            .env("TMPDIR", private)
            .env("UV_CACHE_DIR", self.writable.last().map_or(private, PathBuf::as_path))
            .env("UV_PYTHON_DOWNLOADS", "never")
            .env("PIP_NO_CACHE_DIR", "1")
            .env("LANG", "C.UTF-8")
            .current_dir(private)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(self.settings.environment_timeout, output)
            .await
            .map_err(|_| "building the environment took too long".to_owned())?
            .map_err(|error| format!("the environment cannot be built ({})", error.kind()))?;
        if output.status.success() {
            return Ok(());
        }
        let words = last_words(&output.stderr);
        let words = if words.is_empty() { output.status.to_string() } else { words };
        Err(format!("the environment cannot be built: {words}"))
    }
}

/// What an installer says about its failure, without paths of this machine and without what addresses may hide:
/// logins and queries.
fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = text.lines().map(str::trim).filter(|line| {
        let chatter = ["hint:", "WARNING", "warning:", "[notice]", "worker isolation is incomplete"];
        !line.is_empty() && !chatter.iter().any(|start| line.starts_with(start))
    });
    let lines: Vec<&str> = lines.collect();
    // The last error, from its first line on.
    let start = lines.iter().rposition(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("error") || line.starts_with('×')
    });
    let start = start.unwrap_or(lines.len().saturating_sub(3));
    let words = lines.iter().skip(start).flat_map(|line| line.split_whitespace()).map(tell);
    let text = words.collect::<Vec<_>>().join(" ");
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}

fn tell(word: &str) -> String {
    let quote = |c: char| matches!(c, '`' | '\'' | '"' | '(' | ')' | '<' | '>' | '[' | ']' | ',' | ';' | '=');
    let bare = word.trim_matches(quote);
    if let Some(at) = word.find("://") {
        let scheme = word[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+').next().unwrap_or("");
        let rest = &word[at + 3..];
        if scheme == "file" {
            return "<path>".to_owned();
        }
        // The login ends at the last `@` of what may be the host: an unescaped `/` may be a part of it.
        let rest = rest.rsplit('@').next().unwrap_or_default();
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        return format!("{scheme}://{}", rest.trim_end_matches(quote));
    }
    if bare.contains('/') && bare.len() > 1 && (bare.starts_with(['/', '~', '.']) || word.contains("=/")) {
        return "<path>".to_owned();
    }
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installers_error_is_told_without_logins_and_paths() {
        let uv = "warning: x\nerror: No solution found\n  cause: Because not-there was not found in `/var/lib/wheels`\n\
                  and at https://ann:pa/ss@index.example/simple/?key=1 we can conclude\nhint: no\n";
        let told = last_words(uv.as_bytes());
        assert_eq!(
            told,
            "error: No solution found cause: Because not-there was not found in <path> and at \
             https://index.example/simple/ we can conclude"
        );
        let pip = "Looking in indexes: https://u:p@h/simple\nERROR: Could not find a version\nERROR: No matching x==1\n";
        assert_eq!(last_words(pip.as_bytes()), "ERROR: No matching x==1");
        for hidden in ["(file:///etc/x)", "'/root/.cache/uv'", "--find-links=/opt/wheels", "~/x/y"] {
            assert_eq!(tell(hidden), "<path>", "{hidden}");
        }
        assert_eq!(last_words(b""), "");
    }
}
