//! nginx on loopback, as the user who runs the tests, with its files in one folder.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{self, Process};
use crate::tls_client::{self, Served, Trust};
use crate::{ports, tools, wait};

/// One server block: names, and the files that it serves.
#[derive(Debug, Clone)]
pub struct Site {
    /// The names that it answers to.
    pub names: Vec<String>,
    /// PEM of the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM of the key.
    pub key: PathBuf,
}

impl Site {
    /// A site with one name, whose files stand in `folder` as an agent installs them.
    pub fn installed(name: &str, folder: &Path) -> Self {
        Self {
            names: vec![name.to_owned()],
            certificate: folder.join("fullchain.pem"),
            key: folder.join("privkey.pem"),
        }
    }
}

/// A running nginx.
pub struct Nginx {
    process: Process,
    folder: PathBuf,
    tls: SocketAddr,
    plain: SocketAddr,
    program: PathBuf,
}

impl Nginx {
    /// Starts it with its files in `folder`, and waits until it answers. Without sites it only
    /// answers plain HTTP; sites that are added later come with the next reload, so that it can
    /// run before there is any certificate.
    pub async fn start(folder: &Path, sites: &[Site]) -> Result<Self> {
        let program = tools::tool("nginx")?;
        let (tls, plain) = (ports::free()?, ports::free()?);
        for sub in ["body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            fs::create_dir_all(folder.join("temp").join(sub))?;
        }
        write_config(folder, tls, plain, sites)?;
        let mut command = Command::new(&program);
        command.args(arguments(folder)).args(["-g", "daemon off;"]);
        let process = Process::start("nginx", folder, &mut command)?;
        let mut nginx = Self { process, folder: folder.to_owned(), tls, plain, program };
        nginx.wait_until_ready().await?;
        Ok(nginx)
    }

    /// Where it serves TLS.
    pub fn address(&self) -> SocketAddr {
        self.tls
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("nginx.conf")
    }

    /// Writes the configuration anew. It holds from the next reload.
    pub fn configure(&self, sites: &[Site]) -> Result<()> {
        write_config(&self.folder, self.tls, self.plain, sites)
    }

    /// Spoils the configuration, as somebody else's edit would. The running nginx goes on;
    /// [`Nginx::configure`] makes it good again.
    pub fn spoil_config(&self) -> Result<()> {
        let mut text = fs::read_to_string(self.config())?;
        text.push_str("no_such_directive on;\n");
        fs::write(self.config(), text).context("nginx.conf cannot be written")
    }

    /// The command that tests the configuration.
    pub fn test_command(&self) -> Vec<String> {
        self.command(&["-t"])
    }

    /// The command that makes it load the configuration and the certificates again.
    pub fn reload_command(&self) -> Vec<String> {
        self.command(&["-s", "reload"])
    }

    /// Loads the configuration again.
    pub async fn reload(&self) -> Result<()> {
        let command = self.reload_command();
        process::run(Command::new(&command[0]).args(&command[1..]), wait::SOON).await?.success()?;
        Ok(())
    }

    /// Wraps the test and the reload command in scripts that count how often they were run.
    pub fn counted_commands(&self) -> Result<CountedCommands> {
        let script = |name: &str, command: &[String]| -> Result<PathBuf> {
            let path = self.folder.join(format!("{name}.sh"));
            let quoted: Vec<String> = command.iter().map(|word| format!("'{word}'")).collect();
            let count = self.folder.join(format!("{name}.count"));
            let text = format!(
                "#!/bin/sh\necho run >> '{}'\nexec {}\n",
                count.display(),
                quoted.join(" ")
            );
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            Ok(path)
        };
        Ok(CountedCommands {
            test: script("test", &self.test_command())?,
            reload: script("reload", &self.reload_command())?,
        })
    }

    /// What it serves for a name.
    pub async fn served(&self, name: &str) -> Result<Served> {
        tls_client::served(self.tls, name, &Trust::Anybody).await
    }

    /// The process, to stop or pause it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn command(&self, last: &[&str]) -> Vec<String> {
        let mut words = vec![self.program.display().to_string()];
        words.extend(arguments(&self.folder));
        words.extend(last.iter().map(|word| (*word).to_owned()));
        words
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let plain = self.plain;
        self.process
            .wait_until("nginx to answer", wait::SOON, async || {
                tokio::net::TcpStream::connect(plain).await?;
                Ok(())
            })
            .await
    }
}

/// Scripts that an agent runs instead of nginx's own commands.
#[derive(Debug, Clone)]
pub struct CountedCommands {
    /// Tests the configuration.
    pub test: PathBuf,
    /// Reloads.
    pub reload: PathBuf,
}

impl CountedCommands {
    /// How often the configuration was tested.
    pub fn tests(&self) -> usize {
        count(&self.test)
    }

    /// How often it was reloaded.
    pub fn reloads(&self) -> usize {
        count(&self.reload)
    }
}

fn count(script: &Path) -> usize {
    fs::read_to_string(script.with_extension("count")).map_or(0, |text| text.lines().count())
}

fn arguments(folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    vec![
        "-p".to_owned(),
        folder.display().to_string(),
        "-e".to_owned(),
        path("nginx-error.log"),
        "-c".to_owned(),
        path("nginx.conf"),
    ]
}

fn write_config(folder: &Path, tls: SocketAddr, plain: SocketAddr, sites: &[Site]) -> Result<()> {
    let base = folder.display();
    let mut text = format!(
        "pid {base}/nginx.pid;\nerror_log {base}/nginx-error.log notice;\nworker_processes 1;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n"
    );
    for (directive, sub) in [
        ("client_body_temp_path", "body"),
        ("proxy_temp_path", "proxy"),
        ("fastcgi_temp_path", "fastcgi"),
        ("uwsgi_temp_path", "uwsgi"),
        ("scgi_temp_path", "scgi"),
    ] {
        writeln!(text, "  {directive} {base}/temp/{sub};")?;
    }
    writeln!(text, "  server {{ listen {plain}; location / {{ return 200 \"ok\\n\"; }} }}")?;
    for site in sites {
        writeln!(
            text,
            "  server {{\n    listen {tls} ssl;\n    server_name {};\n    ssl_certificate {};\n    \
             ssl_certificate_key {};\n    location / {{ return 200 \"ok\\n\"; }}\n  }}",
            site.names.join(" "),
            site.certificate.display(),
            site.key.display(),
        )?;
    }
    text.push_str("}\n");
    fs::write(folder.join("nginx.conf"), text).context("nginx.conf cannot be written")
}
