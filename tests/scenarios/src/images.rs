//! Image archives as `docker save` writes them, made from static programs of this machine.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What goes into an image of one layer.
#[derive(Clone, Debug, Default)]
pub struct ImageSpec {
    /// `name:tag`.
    pub name: String,
    /// Path in the image, content, mode.
    pub files: Vec<(String, Vec<u8>, u32)>,
    /// Path in the image, target.
    pub links: Vec<(String, String)>,
    /// The image configuration's `config`: Env, Entrypoint, Cmd, User, WorkingDir.
    pub config: Value,
}

/// Writes the image as an archive of `docker save`.
pub fn image_archive(spec: &ImageSpec, path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, content, mode) in &spec.files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        owned_by_root(&mut header);
        layer
            .append_data(&mut header, name, content.as_slice())
            .unwrap();
    }
    for (name, target) in &spec.links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        owned_by_root(&mut header);
        layer.append_link(&mut header, name, target).unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let digest = hex(&layer);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": spec.config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created_by": "kernelet scenarios" }],
    })
    .to_string()
    .into_bytes();
    let config_name = format!("{}.json", hex(&config));
    let layer_name = format!("{digest}/layer.tar");
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [spec.name], "Layers": [layer_name] }])
            .to_string()
            .into_bytes();
    let mut archive = tar::Builder::new(File::create(path).unwrap());
    for (name, content) in [
        (&config_name, &config),
        (&layer_name, &layer),
        (&"manifest.json".to_owned(), &manifest),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive
            .append_data(&mut header, name, content.as_slice())
            .unwrap();
    }
    archive.finish().unwrap();
}

/// Debian's static busybox as `busybox:test`, with every applet linked.
pub fn busybox_image(dir: &Path) -> PathBuf {
    let path = dir.join("busybox.tar");
    image_archive(&busybox("busybox:test"), &path);
    path
}

/// The same under another name.
pub fn busybox_image_as(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join("busybox-as.tar");
    image_archive(&busybox(name), &path);
    path
}

/// Busybox with bash, curl and getent of this machine and what they are linked with (glibc's resolver), and `udpname
/// PORT`, which answers each datagram with the host's name; as `glibc:test`.
pub fn glibc_image(dir: &Path) -> PathBuf {
    let mut spec = busybox("glibc:test");
    let mut wanted = BTreeSet::new();
    for program in ["bash", "curl", "getent"] {
        let program = find(program);
        wanted.extend(libraries(&program));
        wanted.insert(program);
    }
    for file in wanted {
        let name = file.trim_start_matches('/').to_owned();
        spec.files
            .push((name, std::fs::read(&file).expect(&file), 0o755));
    }
    spec.files.push((
        "bin/udpname".into(),
        compiled("cc", UDP_NAME, dir).expect("a C compiler is installed"),
        0o755,
    ));
    let path = dir.join("glibc.tar");
    image_archive(&spec, &path);
    path
}

/// Debian's nginx with what it is linked with, as `nginx:test`: it serves `/site` on port 8080, logs to its standard
/// output, and ends by SIGQUIT, as upstream's image does.
pub fn nginx_image(dir: &Path) -> PathBuf {
    const CONFIG: &str = "daemon off; user nobody nogroup; pid /tmp/nginx.pid; error_log /dev/stderr notice;\n\
        events {}\n\
        http {\n\
          access_log /dev/stdout; client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy;\n\
          fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;\n\
          server { listen 8080; root /site; }\n\
        }\n";
    let program = find("nginx");
    let mut spec = ImageSpec {
        name: "nginx:test".into(),
        files: vec![
            ("etc/nginx.conf".into(), CONFIG.into(), 0o644),
            (
                "etc/passwd".into(),
                b"root:x:0:0:root:/:\nnobody:x:65534:65534:nobody:/:\n".to_vec(),
                0o644,
            ),
            (
                "etc/group".into(),
                b"root:x:0:\nnogroup:x:65534:\n".to_vec(),
                0o644,
            ),
            ("tmp/.keep".into(), Vec::new(), 0o644),
            ("var/lib/nginx/.keep".into(), Vec::new(), 0o644),
            ("var/log/nginx/.keep".into(), Vec::new(), 0o644),
        ],
        links: Vec::new(),
        config: json!({
            "Entrypoint": ["/usr/sbin/nginx"], "Cmd": ["-c", "/etc/nginx.conf"],
            "ExposedPorts": { "8080/tcp": {} }, "StopSignal": "SIGQUIT",
        }),
    };
    for library in libraries(&program) {
        let name = library.trim_start_matches('/').to_owned();
        let content = std::fs::read(&library).expect(&library);
        spec.files.push((name, content, 0o755));
    }
    let content = std::fs::read(&program).expect(&program);
    spec.files.push(("usr/sbin/nginx".into(), content, 0o755));
    let path = dir.join("nginx.tar");
    image_archive(&spec, &path);
    path
}

/// Debian's etcd with what it is linked with, as `etcd:test`: a gRPC server with a health service, on port 2379.
pub fn etcd_image(dir: &Path) -> PathBuf {
    let program = find("etcd");
    let file = |path: &String| std::fs::read(path).expect(path);
    let mut files = vec![
        ("bin/etcd".to_owned(), file(&program), 0o755),
        ("tmp/.keep".into(), Vec::new(), 0o644),
    ];
    for library in libraries(&program) {
        let name = library.trim_start_matches('/').to_owned();
        files.push((name, file(&library), 0o755));
    }
    let spec = ImageSpec {
        name: "etcd:test".into(),
        files,
        links: Vec::new(),
        config: json!({ "Entrypoint": [
            "/bin/etcd", "--data-dir=/tmp/etcd", "--listen-client-urls=http://0.0.0.0:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
        ] }),
    };
    let path = dir.join("etcd.tar");
    image_archive(&spec, &path);
    path
}

/// A program of musl's libc that looks a name up (`/bin/lookup NAME`), as `musl:test`; `None` without musl-gcc.
pub fn musl_image(dir: &Path) -> Option<PathBuf> {
    const LOOKUP: &str = "#include <arpa/inet.h>\n#include <netdb.h>\n#include <stdio.h>\n\
        int main(int argc, char **argv) {\n\
          struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;\n\
          int error = getaddrinfo(argv[1], 0, &hints, &found);\n\
          if (error) { puts(gai_strerror(error)); return 1; }\n\
          for (; found; found = found->ai_next) {\n\
            char text[64];\n\
            if (found->ai_family == AF_INET)\n\
              puts(inet_ntop(AF_INET, &((struct sockaddr_in *)found->ai_addr)->sin_addr, text, sizeof text));\n\
          }\n\
          return 0; }\n";
    let lookup = compiled("musl-gcc", LOOKUP, dir)?;
    let mut spec = busybox("musl:test");
    spec.files.push(("bin/lookup".into(), lookup, 0o755));
    let path = dir.join("musl.tar");
    image_archive(&spec, &path);
    Some(path)
}

const UDP_NAME: &str = "#include <arpa/inet.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
    int main(int argc, char **argv) {\n\
      struct sockaddr_in me = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))}, peer;\n\
      int s = socket(AF_INET, SOCK_DGRAM, 0);\n\
      char text[256], name[256];\n\
      if (bind(s, (struct sockaddr *)&me, sizeof me)) return 1;\n\
      gethostname(name, sizeof name - 1);\n\
      strcat(name, \"\\n\");\n\
      for (;;) {\n\
        socklen_t size = sizeof peer;\n\
        if (recvfrom(s, text, sizeof text, 0, (struct sockaddr *)&peer, &size) >= 0)\n\
          sendto(s, name, strlen(name), 0, (struct sockaddr *)&peer, size);\n\
      } }\n";

/// A static program of C; `None` without that compiler.
fn compiled(compiler: &str, text: &str, dir: &Path) -> Option<Vec<u8>> {
    let (source, program) = (dir.join("program.c"), dir.join("program"));
    std::fs::write(&source, text).unwrap();
    let built = Command::new(compiler)
        .args(["-static", "-O", "-o"])
        .arg(&program)
        .arg(&source)
        .status();
    built
        .is_ok_and(|status| status.success())
        .then(|| std::fs::read(&program).unwrap())
}

fn busybox(name: &str) -> ImageSpec {
    let busybox = std::fs::read(find("busybox")).expect("busybox-static is installed");
    let applets = Command::new("busybox")
        .arg("--list")
        .output()
        .expect("busybox runs");
    let links = String::from_utf8_lossy(&applets.stdout)
        .lines()
        .filter(|applet| *applet != "busybox")
        .map(|applet| (format!("bin/{applet}"), "busybox".to_owned()))
        .collect();
    ImageSpec {
        name: name.into(),
        files: vec![
            ("bin/busybox".into(), busybox, 0o755),
            (
                "etc/passwd".into(),
                b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home:/bin/sh\n".to_vec(),
                0o644,
            ),
            (
                "etc/group".into(),
                b"root:x:0:\nweb:x:1001:\nextra:x:2000:web\n".to_vec(),
                0o644,
            ),
            ("tmp/.keep".into(), Vec::new(), 0o644),
            ("home/.keep".into(), Vec::new(), 0o644),
        ],
        links,
        config: json!({ "Env": ["PATH=/bin:/usr/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"] }),
    }
}

/// A program on the PATH.
fn find(program: &str) -> String {
    std::env::var("PATH")
        .unwrap_or_default()
        .split(':')
        .chain(["/usr/sbin"])
        .map(|dir| format!("{dir}/{program}"))
        .find(|path| Path::new(path).exists())
        .unwrap_or_else(|| panic!("{program} is not installed"))
}

/// What a program is linked with, its loader included.
fn libraries(program: &str) -> BTreeSet<String> {
    let output = Command::new("ldd").arg(program).output().expect("ldd runs");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

/// A new header's numbers are empty, which is not a number.
fn owned_by_root(header: &mut tar::Header) {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
