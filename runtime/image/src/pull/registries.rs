//! What the administrator says of registries: mirrors, authorities, and which may be spoken to without protection.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::url::Url;

/// The settings as they are written down, a list of `KEY=VALUE` or hosts each.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// `REGISTRY=URL`: asked in this order before the registry itself; `*` stands for every registry.
    pub mirrors: Vec<String>,
    /// Hosts (`host[:port]`) that speak plain HTTP.
    pub plain_http: Vec<String>,
    /// Hosts whose certificate isn't verified.
    pub skip_verify: Vec<String>,
    /// `HOST=FILE`: the authority (PEM) that a host's certificate is from, beside the machine's; `*` for every host.
    pub ca: Vec<String>,
}

/// A setting that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{option} {value}: {reason}")]
pub struct RegistriesError {
    /// Which one: `registry-mirror` and the like.
    pub option: &'static str,
    /// As given.
    pub value: String,
    /// What is wrong.
    pub reason: String,
}

/// Where an image can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Up to and without `/v2/`.
    pub base: Url,
    /// A mirror is told whose image is asked for.
    pub mirror_of: Option<String>,
    /// Plain HTTP is tried when the host doesn't speak TLS.
    pub may_be_plain: bool,
}

/// How a host's certificate is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By the machine's authorities and these.
    Verify(Vec<CertificateDer<'static>>),
    Anyone,
}

/// The settings, checked.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    mirrors: Vec<(String, Url)>,
    plain_http: BTreeSet<String>,
    skip_verify: BTreeSet<String>,
    ca: BTreeMap<String, Vec<CertificateDer<'static>>>,
    insecure: BTreeSet<String>,
}

impl Registries {
    /// Checks the settings and reads the authorities' files.
    pub fn new(options: &RegistryOptions) -> Result<Registries, RegistriesError> {
        let mut registries = Registries::default();
        for text in &options.mirrors {
            let error = |reason: &str| RegistriesError {
                option: "registry-mirror",
                value: text.clone(),
                reason: reason.to_owned(),
            };
            let (registry, url) = text
                .split_once('=')
                .ok_or_else(|| error("write REGISTRY=URL"))?;
            let url =
                Url::parse(url).ok_or_else(|| error("the mirror is not an http or https URL"))?;
            registries.mirrors.push((registry.to_owned(), url));
        }
        for (option, hosts, set) in [
            (
                "registry-plain-http",
                &options.plain_http,
                &mut registries.plain_http,
            ),
            (
                "registry-skip-verify",
                &options.skip_verify,
                &mut registries.skip_verify,
            ),
        ] {
            for host in hosts {
                if host.is_empty() || host.contains(['/', '=']) {
                    return Err(RegistriesError {
                        option,
                        value: host.clone(),
                        reason: "write HOST or HOST:PORT".to_owned(),
                    });
                }
                set.insert(host.clone());
            }
        }
        for text in &options.ca {
            let error = |reason: String| RegistriesError {
                option: "registry-ca",
                value: text.clone(),
                reason,
            };
            let (host, file) = text
                .split_once('=')
                .ok_or_else(|| error("write HOST=FILE".to_owned()))?;
            let pem = std::fs::read(file).map_err(|e| error(e.to_string()))?;
            let certificates = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| error(format!("not PEM: {e}")))?;
            if certificates.is_empty() {
                return Err(error("there is no certificate in the file".to_owned()));
            }
            registries
                .ca
                .entry(host.to_owned())
                .or_default()
                .extend(certificates);
        }
        Ok(registries)
    }

    /// Adds an authority for every host.
    pub fn trust(&mut self, file: &Path) -> Result<(), RegistriesError> {
        let added = Registries::new(&RegistryOptions {
            ca: vec![format!("*={}", file.display())],
            ..RegistryOptions::default()
        })?;
        for (host, certificates) in added.ca {
            self.ca.entry(host).or_default().extend(certificates);
        }
        Ok(())
    }

    /// Speaks to this registry without verifying it, over plain HTTP if it has no TLS (`--tls-verify=false`).
    pub fn no_verify(&mut self, registry: &str) {
        let registry = host_of(registry);
        self.skip_verify.insert(registry.to_owned());
        self.insecure.insert(registry.to_owned());
    }

    /// Where a registry's images are asked for, in this order.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mut endpoints: Vec<_> = self
            .mirrors
            .iter()
            .filter(|(of, _)| of == registry || of == "*")
            .map(|(_, url)| Endpoint {
                base: url.clone(),
                mirror_of: Some(registry.to_owned()),
                may_be_plain: false,
            })
            .collect();
        let host = host_of(registry);
        let plain = self.plain_http.contains(registry) || self.plain_http.contains(host);
        let base = format!("{}://{host}", if plain { "http" } else { "https" });
        endpoints.push(Endpoint {
            base: Url::parse(&base).expect("a reference's registry is a host"),
            mirror_of: None,
            // As everybody does it: who can read the loopback device needs no network.
            may_be_plain: !plain && (is_loopback(host) || self.insecure.contains(host)),
        });
        endpoints
    }

    pub(crate) fn trust_of(&self, host: &str) -> Trust {
        if self.skip_verify.contains(host) {
            return Trust::Anyone;
        }
        let own = |key: &str| self.ca.get(key).into_iter().flatten().cloned();
        Trust::Verify(own(host).chain(own("*")).collect())
    }

    /// Whether a redirection to this host may leave TLS.
    pub(crate) fn plain(&self, host: &str) -> bool {
        self.plain_http.contains(host)
    }
}

/// The host behind a registry's name.
fn host_of(registry: &str) -> &str {
    if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(options: RegistryOptions) -> Result<Registries, RegistriesError> {
        Registries::new(&options)
    }

    fn list(items: &[&str]) -> Vec<String> {
        items.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn mirrors_come_before_their_registry() {
        let known = registries(RegistryOptions {
            mirrors: list(&[
                "docker.io=https://m1.example:5000",
                "*=http://m2.example/prefix/",
                "quay.io=https://m3",
            ]),
            plain_http: list(&["plain.example:5000"]),
            ..RegistryOptions::default()
        })
        .unwrap();
        let check = |registry: &str, expect: &[&str]| {
            let found: Vec<_> = known
                .endpoints(registry)
                .iter()
                .map(|e| e.base.to_string())
                .collect();
            assert_eq!(found, expect, "{registry}");
        };
        let docker = [
            "https://m1.example:5000",
            "http://m2.example/prefix",
            "https://registry-1.docker.io",
        ];
        check("docker.io", &docker);
        check(
            "quay.io",
            &["http://m2.example/prefix", "https://m3", "https://quay.io"],
        );
        check(
            "plain.example:5000",
            &["http://m2.example/prefix", "http://plain.example:5000"],
        );
        assert!(!known.endpoints("docker.io")[2].may_be_plain);
        assert!(known.endpoints("localhost:5000")[1].may_be_plain);
        assert!(known.endpoints("[::1]:5000")[1].may_be_plain);
        assert!(!known.endpoints("localhost.example:5000")[1].may_be_plain);
        let mut known = known;
        known.no_verify("r.example");
        assert_eq!(known.trust_of("r.example"), Trust::Anyone);
        assert_eq!(known.trust_of("s.example"), Trust::Verify(Vec::new()));
        assert!(known.endpoints("r.example")[1].may_be_plain);
    }

    #[test]
    fn a_setting_that_makes_no_sense_is_named() {
        let check = |options: RegistryOptions, expect: &str| {
            let error = registries(options).unwrap_err().to_string();
            assert!(error.contains(expect), "{error} does not say {expect}");
        };
        let none = RegistryOptions::default;
        check(
            RegistryOptions {
                mirrors: list(&["docker.io"]),
                ..none()
            },
            "registry-mirror docker.io: write REGISTRY=URL",
        );
        check(
            RegistryOptions {
                mirrors: list(&["a=ftp://x"]),
                ..none()
            },
            "not an http or https URL",
        );
        check(
            RegistryOptions {
                plain_http: list(&["http://a"]),
                ..none()
            },
            "registry-plain-http http://a",
        );
        check(
            RegistryOptions {
                skip_verify: list(&[""]),
                ..none()
            },
            "registry-skip-verify",
        );
        check(
            RegistryOptions {
                ca: list(&["a=/nowhere/ca.pem"]),
                ..none()
            },
            "registry-ca a=/nowhere/ca.pem",
        );
    }
}
