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

/// `earlier` keeps what the request leaves as it is.
Settings settings_after(guest::InitRequest request, Settings earlier);

}  // namespace cube::agent
