// What the daemon is told: command line first, then the configuration file, then these defaults.
#pragma once

#include <cstdint>
#include <cube/core.hpp>
#include <optional>
#include <string>

namespace cube::daemon {

struct Config {
  std::string listen = "127.0.0.1:3000";
  std::string state_directory = "/var/lib/cubed";
  std::string image_directory;  ///< empty: STATE/images
  std::string kernel = "/usr/lib/cubed/vmlinux";
  std::string kvm_device = "/dev/kvm";
  std::string domain;        ///< empty: SDKs use their own
  std::string api_key_file;  ///< empty: STATE/api-key, made at the first start
  bool no_auth = false;
  std::string tls_certificate;  ///< empty: no TLS
  std::string tls_key;          ///< both or neither
  std::string log_level = "info";
  std::uint32_t workers = 0;     ///< 0: two for each processor, at least 4
  double memory_overcommit = 8;  ///< sum of sandboxes' nominal memory over the host's
  std::uint32_t max_sandboxes = 10'000;
  std::uint32_t warm_sandboxes = 8;  ///< of a template
  double warm_memory_percent = 10;   ///< of the host's memory
  std::uint32_t vm_shells = 16;
  std::uint32_t max_connections = 16'384;
  std::uint32_t max_connections_per_sandbox = 2048;
  std::uint32_t body_timeout = 60;  ///< seconds
};

/// Where the API listens.
struct Endpoint {
  std::string address;
  std::uint16_t port = 0;
};
Result<Endpoint> parse_endpoint(const std::string& text);
bool is_loopback(const std::string& address);

/// The configuration, or the exit status of a run that only printed something (--help, --version, an error).
struct ParseOutcome {
  std::optional<Config> config;
  int exit_status = 0;
};
ParseOutcome parse_command_line(int argc, char** argv);

}  // namespace cube::daemon
