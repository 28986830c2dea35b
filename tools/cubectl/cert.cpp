#include "cert.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "certificates.hpp"

namespace cube::cubectl {
namespace {

struct Options {
  CertificateRequest request;
  unsigned port = 3000;
};

std::string default_directory() {
  const char* config = std::getenv("XDG_CONFIG_HOME");
  if (config != nullptr && *config != '\0') return std::string(config) + "/cubed/tls";
  const char* home = std::getenv("HOME");
  return (home != nullptr && *home != '\0' ? std::string(home) + "/.config" : std::string("/etc")) +
         "/cubed/tls";
}

void print_result(const Options& options, bool new_authority) {
  const CertificateFiles files(options.request.directory);
  const std::string domain = options.request.domain;
  std::printf("# For %s, *.%s, localhost and 127.0.0.1, for %d days; %s authority. Start the daemon with\n",
              domain.c_str(), domain.c_str(), options.request.days,
              new_authority ? "made by a new" : "made by the same");
  std::printf("#   cubed --domain %s:%u --tls-cert %s --tls-key %s\n", domain.c_str(), options.port,
              files.server.c_str(), files.server_key.c_str());
  std::printf("# or, if it runs with these files, make it read them again: kill -HUP PID\n");
  std::printf("# Names must lead to it, by DNS (%s and *.%s) or /etc/hosts. What SDKs need:\n",
              domain.c_str(), domain.c_str());
  std::printf("export SSL_CERT_FILE=%s NODE_EXTRA_CA_CERTS=%s E2B_DOMAIN=%s:%u\n", files.authority.c_str(),
              files.authority.c_str(), domain.c_str(), options.port);
  std::printf(
      "# SSL_CERT_FILE replaces the system's authorities for that program. To trust this one everywhere\n"
      "# (Debian):\n"
      "#   sudo cp %s /usr/local/share/ca-certificates/cubed.crt && sudo update-ca-certificates\n"
      "# Whoever has %s can speak for any name to those who trust it: keep it.\n",
      files.authority.c_str(), files.authority_key.c_str());
}

Result<void> make(Options& options) {
  std::error_code failed;
  const auto absolute = std::filesystem::absolute(options.request.directory, failed);
  if (!failed) options.request.directory = absolute.lexically_normal().string();
  while (options.request.directory.size() > 1 && options.request.directory.ends_with('/'))
    options.request.directory.pop_back();
  std::filesystem::create_directories(std::filesystem::path(options.request.directory).parent_path(), failed);
  const auto made = make_certificates(options.request);
  if (!made) return made.error();
  print_result(options, *made);
  return {};
}

}  // namespace

void add_certificate_commands(CommandLine& line) {
  const auto options = std::make_shared<Options>();
  options->request.directory = default_directory();
  auto* command = line.app.add_subcommand(
      "cert",
      "make a certificate for DOMAIN and *.DOMAIN, and the local authority that clients are to trust");
  command
      ->add_option("--domain", options->request.domain,
                   "what SDKs build host names from, for example cube.local")
      ->required();
  command
      ->add_option(
          "--out", options->request.directory,
          "where ca.pem, ca.key, server.pem and server.key are kept; an authority there is used again")
      ->capture_default_str();
  command
      ->add_option("--days", options->request.days,
                   "how long the certificate is valid; many clients take no more than 825")
      ->check(CLI::Range(1, 3650))
      ->capture_default_str();
  command->add_option("--port", options->port, "the daemon's, for the lines that are printed")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  command->callback([&line, options] {
    line.immediate = [options] {
      const auto made = make(*options);
      if (made.ok()) return 0;
      complain(made.error());
      return 1;
    };
  });
}

}  // namespace cube::cubectl
