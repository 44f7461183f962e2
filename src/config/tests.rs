//! What a command line becomes: defaults, files in their default place, and what is refused.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

use super::args::{BusAuth, RunArgs};
use super::{Advertise, ConfigError, NodeConfig, RouteSecret, Timing};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: RunArgs,
}

fn config(flags: &str) -> Result<NodeConfig, ConfigError> {
    let line = Line::parse_from(std::iter::once("unibus-node").chain(flags.split_whitespace()));
    NodeConfig::from_args(&line.run)
}

fn private(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A folder as three-host operators fill it: certificate of `name`, key, CA and secret.
fn config_dir(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec![name.to_owned(), "127.0.0.1".to_owned()];
    let cert = rcgen::CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    private(&dir.path().join("node.crt"), &cert.pem());
    private(&dir.path().join("node.key"), &key.serialize_pem());
    private(&dir.path().join("ca.crt"), &cert.pem());
    private(&dir.path().join("route.secret"), "secret\n");
    dir
}

#[test]
fn no_flags_make_a_single_node_on_loopback() {
    let config = config("").unwrap();
    assert_eq!(config.client_listen.to_string(), "127.0.0.1:4222");
    assert_eq!(config.http_listen.unwrap().to_string(), "127.0.0.1:8470");
    assert_eq!(config.monitor_listen.unwrap().to_string(), "127.0.0.1:8222");
    assert_eq!(config.data_dir, Path::new("./unibus-data"));
    assert_eq!(
        config.internal_id_file.unwrap(),
        Path::new("./unibus-data/internal.json")
    );
    assert_eq!(config.auth.bus(), Some(BusAuth::Off));
    assert!(config.cluster.is_none());
    assert_eq!(config.advertise, Advertise::Listener);
    assert!(!config.server_name.is_empty());
}

#[test]
fn routes_alone_are_a_complete_command_once_the_files_are_in_place() {
    let dir = config_dir("alpha");
    let flags = format!(
        "--config-dir {} --routes alpha,beta:7000,gamma",
        dir.path().display()
    );
    let config = config(&flags).unwrap();
    assert_eq!(config.server_name, "alpha");
    assert_eq!(config.auth.bus(), Some(BusAuth::Enforce));
    assert_eq!(config.client_listen.to_string(), "0.0.0.0:4222");
    // Monitoring never leaves the host.
    assert!(config.monitor_listen.unwrap().ip().is_loopback());
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.name, "unibus");
    assert_eq!(cluster.listen.to_string(), "0.0.0.0:6222");
    assert_eq!(cluster.routes.len(), 3);
    assert_eq!(cluster.routes[1].port, 7000);
    assert_eq!(cluster.tls.key, dir.path().join("node.key"));
    assert_eq!(
        cluster.secret,
        RouteSecret::File(dir.path().join("route.secret"))
    );
}

#[test]
fn a_cluster_on_one_host_stays_on_loopback() {
    let dir = config_dir("alpha");
    let at = dir.path().display();
    let flags = format!("--config-dir {at} --routes a=127.0.0.1:1,b=127.0.0.1:2 --cluster-port 1");
    let config = config(&flags).unwrap();
    assert!(config.client_listen.ip().is_loopback());
    assert_eq!(config.cluster.unwrap().listen.to_string(), "127.0.0.1:1");
}

#[test]
fn flags_win_over_the_folder() {
    let (dir, other) = (config_dir("alpha"), config_dir("beta"));
    let flags = format!(
        "--config-dir {} --routes 10.0.0.1 --route-tls-cert {} --cluster-user u --cluster-pass p",
        dir.path().display(),
        other.path().join("node.crt").display()
    );
    let config = config(&flags).unwrap();
    assert_eq!(config.server_name, "beta");
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.tls.cert, other.path().join("node.crt"));
    assert_eq!(cluster.tls.key, dir.path().join("node.key"));
    let secret = RouteSecret::UserPass {
        user: "u".into(),
        pass: "p".into(),
    };
    assert_eq!(cluster.secret, secret);
    assert!(!format!("{:?}", cluster.secret).contains("\"p\""));
}

#[test]
fn ipv6_routes_listen_on_ipv6() {
    let dir = config_dir("alpha");
    let of = |routes: &str| {
        let flags = format!("--config-dir {} --routes {routes}", dir.path().display());
        config(&flags).unwrap().cluster.unwrap().listen.ip()
    };
    assert_eq!(
        of("[::1]:7001,[::1]:7002"),
        "::1".parse::<IpAddr>().unwrap()
    );
    assert_eq!(of("[fd00::1]:7001"), "::".parse::<IpAddr>().unwrap());
}

#[test]
fn a_weak_shape_is_refused_and_says_everything() {
    let error = config("--bind 0.0.0.0 --cluster-name c --bus-auth off").unwrap_err();
    assert!(
        matches!(&error, ConfigError::Refused(v) if v.len() == 2),
        "{error}"
    );
}

#[test]
fn what_means_nothing_is_refused_by_name() {
    let says = |flags: &str, wanted: &str| {
        let text = config(flags).unwrap_err().to_string();
        assert!(text.contains(wanted), "{flags}: {text}");
    };
    says("--server-name a/b", "--server-name");
    says("--port 8470", "--http-port");
    says("--port 8222", "--monitor-port");
    says("--max-payload 65MB", "--max-payload");
    says("--config-dir /nowhere/at/all --routes a", "--config-dir");
    says("--election-timeout-ms 150", "--election-timeout-ms");
    says("--client-advertise a:b", "--client-advertise");
}

#[test]
fn routes_are_read_with_spaces_and_refused_with_reasons() {
    let dir = config_dir("alpha");
    let at = dir.path().display().to_string();
    let line = |routes: &str| {
        Line::try_parse_from(["unibus-node", "--config-dir", &at, "--routes", routes])
    };
    let args = line("a, b=c:7 ,[::1]:8").unwrap();
    let shown: Vec<String> = args
        .run
        .cluster
        .routes
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["a:6222", "b=c:7", "[::1]:8"]);
    for bad in ["a,,b", "nats://a", "a b", "a/b:1", "n n=a", "a:0"] {
        assert!(line(bad).is_err(), "{bad}");
    }
    let loopback = |routes: &str| super::is_loopback(&line(routes).unwrap().run.cluster.routes[0]);
    assert!(
        ["127.9.9.9:1", "[::1]:4", "localhost", "n=LOCALHOST:5"]
            .into_iter()
            .all(loopback)
    );
    assert!(!["10.0.0.1", "localhost.example"].into_iter().any(loopback));
}

#[test]
fn monitoring_can_be_turned_off_and_ports_may_be_free_ones() {
    let config = config("--port 0 --http-port 0 --monitor-port 0").unwrap();
    assert_eq!(config.monitor_listen, None);
    assert_eq!(config.client_listen.port(), 0);
}

#[test]
fn an_advertised_host_gets_the_listeners_port() {
    let of = |flags: &str| config(flags).unwrap().advertise;
    assert_eq!(
        of("--client-advertise bus:9"),
        Advertise::Address("bus:9".into())
    );
    assert_eq!(
        of("--client-advertise bus --port 7"),
        Advertise::Address("bus:7".into())
    );
    assert_eq!(of("--no-advertise"), Advertise::Nothing);
}

#[test]
fn election_timeouts_double_and_follow_the_heartbeat() {
    let ms = Duration::from_millis;
    let timing = Timing::new(ms(50), ms(200)).unwrap();
    assert_eq!(
        (timing.election_min, timing.election_max),
        (ms(200), ms(400))
    );
    assert!(Timing::new(ms(100), ms(199)).is_err());
    assert!(Timing::new(ms(5), ms(300)).is_err());
}

#[test]
fn a_certificate_file_without_a_certificate_is_named() {
    let dir = config_dir("alpha");
    private(&dir.path().join("node.crt"), "nothing");
    let flags = format!("--config-dir {} --routes a", dir.path().display());
    let text = config(&flags).unwrap_err().to_string();
    assert!(
        text.contains("node.crt") && text.contains("pki issue"),
        "{text}"
    );
}

#[test]
fn clients_tls_and_websocket_are_read_from_flags() {
    use super::tls::HandshakeFirst;
    let dir = config_dir("alpha");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let flags = format!(
        "--tls-cert {} --tls-key {} --tls-ca {} --tls-verify --tls-first 300ms --ws-listen 9222 \
         --ws-allowed-origins https://a.example,https://b.example",
        at("node.crt"),
        at("node.key"),
        at("ca.crt")
    );
    let config = config(&flags).unwrap();
    let tls = config.client_tls.unwrap();
    assert!(tls.verify && !tls.allow_non_tls && tls.ca.is_some());
    assert_eq!(
        tls.handshake_first,
        HandshakeFirst::Auto(Duration::from_millis(300))
    );
    let ws = config.websocket.unwrap();
    assert_eq!(ws.listen.to_string(), "127.0.0.1:9222");
    assert_eq!(ws.allowed_origins.len(), 2);
    assert_eq!(ws.tls.unwrap().cert, dir.path().join("node.crt"));
}

#[test]
fn rooms_are_encrypted_where_others_can_connect_or_where_it_is_asked_for() {
    for (flags, encrypted) in [
        ("", false),
        ("--bind 127.0.0.9", false),
        ("--encrypted-rooms", true),
        ("--bind 0.0.0.0 --bus-auth enforce", true),
        ("--bind :: --bus-auth enforce", true),
        ("--bind 192.0.2.1 --bus-auth enforce", true),
        ("--ws-listen 127.0.0.1:9222 --ws-no-tls", false),
        (
            "--ws-listen 0.0.0.0:9222 --ws-no-tls --bus-auth enforce",
            true,
        ),
    ] {
        assert_eq!(config(flags).unwrap().encrypted_rooms, encrypted, "{flags}");
    }
}

#[test]
fn limits_of_clients_and_batches_are_what_the_flags_say() {
    let limits = config("").unwrap().limits;
    assert_eq!(limits, super::limits::Limits::default());
    let flags = "--max-subscriptions 7 --write-deadline-ms 700 --auth-timeout-ms 90 --max-fast-batches 3 \
                 --max-fast-waiting 1MB --max-atomic-batches 4 --max-atomic-staged 2MB \
                 --batch-timeout-ms 500";
    let limits = config(flags).unwrap().limits;
    assert_eq!(limits.subscriptions_max, 7);
    assert_eq!(limits.write_deadline, Duration::from_millis(700));
    assert_eq!(limits.auth_timeout, Duration::from_millis(90));
    let batches = super::batches::BatchLimits {
        fast_max: 3,
        fast_waiting_bytes_max: 1 << 20,
        atomic_per_stream_max: 4,
        atomic_staged_bytes_max: 2 << 20,
        idle_max: Duration::from_millis(500),
    };
    assert_eq!(limits.batches, batches);
    for (wrong, wanted) in [
        ("--write-deadline-ms 0", "from 1 to 600000"),
        ("--auth-timeout-ms 600001", "from 1 to 600000"),
        ("--max-fast-batches 0", "from 1 to 1000000"),
        ("--max-fast-waiting 1KB", "from 64KB"),
        ("--max-atomic-batches 0", "from 1 to 1000000"),
        ("--max-atomic-staged 65GB", "to 64GB"),
        ("--batch-timeout-ms 99", "from 100 to 3600000"),
    ] {
        let text = config(wrong).unwrap_err().to_string();
        let flag = wrong.split(' ').next().unwrap();
        assert!(text.contains(flag) && text.contains(wanted), "{text}");
    }
}
