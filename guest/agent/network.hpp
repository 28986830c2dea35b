// The guest's own network: the loopback interface, and eth0 with the address every guest has.
//
// Addresses are frozen into snapshots: the switch outside gives each sandbox an identity of its own.
#pragma once

#include <cube/core.hpp>

namespace cube::agent {

inline constexpr const char* guest_address = "10.200.0.2";
inline constexpr const char* guest_netmask = "255.255.255.252";
inline constexpr const char* guest_gateway = "10.200.0.1";

Result<void> bring_up_loopback();

/// Nothing if there is no eth0.
Result<void> configure_ethernet();

}  // namespace cube::agent
