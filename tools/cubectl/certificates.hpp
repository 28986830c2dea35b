// A certificate authority for one machine, and server certificates made by it (OpenSSL).
#pragma once

#include <cube/core.hpp>
#include <string>
#include <vector>

namespace cube::cubectl {

/// Where things are: DIRECTORY/ca.pem, ca.key, server.pem (with the authority's certificate after it),
/// server.key.
struct CertificateFiles {
  explicit CertificateFiles(const std::string& directory)
      : authority(directory + "/ca.pem"),
        authority_key(directory + "/ca.key"),
        server(directory + "/server.pem"),
        server_key(directory + "/server.key") {}

  std::string authority, authority_key, server, server_key;
};

struct CertificateRequest {
  std::string domain;     ///< the certificate is for it and *.DOMAIN, localhost, 127.0.0.1 and ::1
  std::string directory;  ///< made if it is missing; everyone may read all but the keys
  int days = 365;
};

/// Labels of letters, digits and '-', in lower case: what a wildcard certificate can be made for.
bool is_domain(const std::string& text);

/// Makes or renews the server's certificate and key, P-256. The authority is kept if it is there and valid
/// for longer than the certificate; an authority that is there and cannot be used is an error, for somebody
/// trusts it. Files appear whole, keys with mode 0600. True if the authority is new.
Result<bool> make_certificates(const CertificateRequest& request);

}  // namespace cube::cubectl
