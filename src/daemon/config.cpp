#include "daemon/config.hpp"

#include <CLI/CLI.hpp>
#include <asio/ip/address.hpp>

namespace cube::daemon {

Result<Endpoint> parse_endpoint(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  Endpoint endpoint;
  endpoint.address = text.substr(0, std::min(colon, text.size()));
  if (endpoint.address.starts_with('[') && endpoint.address.ends_with(']'))
    endpoint.address = endpoint.address.substr(1, endpoint.address.size() - 2);
  const std::string digits = colon == std::string::npos ? "" : text.substr(colon + 1);
  const bool number =
      !digits.empty() && digits.size() <= 5 && digits.find_first_not_of("0123456789") == digits.npos;
  asio::error_code bad;
  asio::ip::make_address(endpoint.address == "localhost" ? "127.0.0.1" : endpoint.address, bad);
  if (!number || std::stoul(digits) > 65535 || bad)
    return make_error(ErrorCode::invalid_argument,
                      "not ADDRESS:PORT, for example 127.0.0.1:3000 or [::1]:3000", text);
  endpoint.port = static_cast<std::uint16_t>(std::stoul(digits));
  return endpoint;
}

bool is_loopback(const std::string& address) {
  asio::error_code bad;
  return address == "localhost" || asio::ip::make_address(address, bad).is_loopback();
}

ParseOutcome parse_command_line(int argc, char** argv) {
  Config config;
  CLI::App app{
      "cubed: an E2B-compatible sandbox service. Every sandbox is a microVM, cloned from a snapshot."};
  // The last word counts, so that a drop-in can override a unit's command line.
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", std::string("cubed ") + CUBED_VERSION);
  app.set_config("--config", "", "read options from this file (TOML: listen = \"127.0.0.1:3000\")");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_option("--listen", config.listen, "ADDRESS:PORT of API and sandboxes' ports")
      ->capture_default_str();
  app.add_option("--state-dir", config.state_directory, "templates, database, key")->capture_default_str();
  app.add_option("--image-dir", config.image_directory,
                 "root file systems to build templates from [STATE/images]");
  app.add_option("--kernel", config.kernel, "the guests' vmlinux")->capture_default_str();
  app.add_option("--kvm-device", config.kvm_device)->capture_default_str();
  app.add_option("--domain", config.domain, "what SDKs build host names from ({port}-{id}.DOMAIN)");
  app.add_option("--api-key-file", config.api_key_file, "[STATE/api-key, generated at the first start]");
  app.add_flag("--no-auth", config.no_auth, "ask for no API key; only with a loopback --listen address");
  auto* certificate = app.add_option("--tls-cert", config.tls_certificate,
                                     "speak TLS (HTTP/2 and HTTP/1.1) beside plain HTTP on the same port, "
                                     "with this certificate and its chain "
                                     "(PEM); read again on SIGHUP. `cubectl cert` makes one");
  auto* key = app.add_option("--tls-key", config.tls_key, "the certificate's private key (PEM, no password)");
  certificate->needs(key);
  key->needs(certificate);
  app.add_option("--log-level", config.log_level)
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  app.add_option("--workers", config.workers, "threads for blocking work [2 for each processor]")
      ->check(CLI::Range(0, 1024));
  app.add_option("--memory-overcommit", config.memory_overcommit,
                 "how often the host's memory may be promised to sandboxes")
      ->check(CLI::Range(0.1, 1000.0))
      ->capture_default_str();
  app.add_option("--warm-sandboxes", config.warm_sandboxes,
                 "sandboxes made ahead of time for each template in demand, at most")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app.add_option("--warm-memory-percent", config.warm_memory_percent,
                 "share of the host's memory those of all templates may use")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--vm-shells", config.vm_shells,
                 "virtual machines made ahead of time, without a guest, in all")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app.add_option("--max-sandboxes", config.max_sandboxes)->capture_default_str();
  app.add_option("--max-connections", config.max_connections)->capture_default_str();
  app.add_option("--max-connections-per-sandbox", config.max_connections_per_sandbox,
                 "requests on their way into one sandbox at a time; more are answered with 429")
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  app.add_option("--body-timeout", config.body_timeout,
                 "seconds a request's body of announced length may be waited for, and one more for each 1000 "
                 "bytes of it; then the answer is 408")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return {std::nullopt, app.exit(error)};
  }
  if (config.image_directory.empty()) config.image_directory = config.state_directory + "/images";
  if (config.api_key_file.empty()) config.api_key_file = config.state_directory + "/api-key";
  return {config, 0};
}

}  // namespace cube::daemon
