//! What `nats-server --help` says here. Text only.

/// Flags that are understood.
pub(super) const USAGE: &str = "\
Usage: nats-server [flags]          (unibus-node nats-server [flags])

A unibus node with nats-server's command line and configuration file. One dash or two,
-flag VALUE or -flag=VALUE. Flags win over the file.

Server:
  -a, --addr, --net HOST        address of every listener [default: 0.0.0.0]
  -p, --port PORT               port for clients, -1 = any free one [default: 4222]
  -n, --name, --server_name N   name of this server [default: its id]
  -P, --pid FILE                write the process id here; removed at exit
  -m, --http_port PORT          port of monitoring, -1 = any free one [default: off]
  -c, --config FILE             configuration file
  -t                            test the configuration and exit
  -sl, --signal CMD[=PID]       send ldm, stop, quit, term, reopen or reload to a running
                                server; PID is an id or a pid file [default: the only one]
      --client_advertise H:P    what clients and peers are told to connect to
      --ports_file_dir DIR      write nats-server_PID.ports (JSON) here
Logging:
  -l, --log FILE                log here and not on stderr
  -T, --logtime                 log lines carry the time [default: true]
  -D, --debug   -V, --trace   -DV
JetStream:
  -js, --jetstream              streams, consumers, key-value and object stores
  -sd, --store_dir DIR          where they are kept, in DIR/jetstream
Authorization:
      --user USER --pass PASS   the only user
      --auth TOKEN              the only token
TLS:
      --tls --tlscert FILE --tlskey FILE
      --tlsverify --tlscacert FILE
Cluster (loopback only; across hosts: unibus-node --routes …):
      --cluster, --cluster_listen URL
      --cluster_name NAME --routes URL,URL
      --no_advertise
Common:
  -h, --help    -v, --version
";

/// What `--help_tls` says.
pub(super) const TLS: &str = "\
TLS 1.2 and 1.3 with the cipher suites of rustls; there is no flag to choose others.
  nats-server --tls --tlscert server.pem --tlskey server.key
  nats-server --tlsverify --tlscert server.pem --tlskey server.key --tlscacert ca.pem
";
