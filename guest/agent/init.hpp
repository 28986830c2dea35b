// POST /init: what makes a clone itself (cube/guest.hpp, InitRequest).
#pragma once

#include <cube/guest.hpp>

#include "rpc.hpp"
#include "settings.hpp"

namespace cube::agent {

Result<guest::InitRequest> parse_init(const JsonObject& message);

/// Entropy, clock and names of the running machine, in this order. Any failure leaves a clone that must not
/// be used.
Result<void> renew_machine(const guest::InitRequest& request);

/// The parts of renew_machine() that are files, under `root` ("" is the machine's own).
Result<void> write_names(const std::string& root, const guest::InitRequest& request);

/// `hosts` with 127.0.1.1 naming this machine, and localhost if it was missing; other lines are the user's.
std::string hosts_with_name(std::string_view hosts, std::string_view name);

/// `earlier` keeps what the request leaves as it is.
Settings settings_after(guest::InitRequest request, Settings earlier);

}  // namespace cube::agent
