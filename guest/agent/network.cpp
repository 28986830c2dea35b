#include "network.hpp"

#include <arpa/inet.h>
#include <net/if.h>
#include <net/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace cube::agent {
namespace {

Result<Fd> interface_socket() {
  Fd descriptor(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!descriptor) return os_error(errno, "cannot create a socket");
  return descriptor;
}

ifreq request_for(const char* interface) {
  ifreq request{};
  std::strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
  return request;
}

sockaddr address(const char* text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  ::inet_pton(AF_INET, text, &address.sin_addr);
  sockaddr generic;
  std::memcpy(&generic, &address, sizeof generic);
  return generic;
}

Result<void> bring_up(int descriptor, const char* interface) {
  ifreq request = request_for(interface);
  if (::ioctl(descriptor, SIOCGIFFLAGS, &request) != 0)
    return os_error(errno, "cannot find interface", interface);
  request.ifr_flags |= IFF_UP;
  if (::ioctl(descriptor, SIOCSIFFLAGS, &request) != 0) return os_error(errno, "cannot bring up", interface);
  return {};
}

}  // namespace

Result<void> bring_up_loopback() {
  auto descriptor = interface_socket();
  if (!descriptor) return std::move(descriptor).error();
  return bring_up(descriptor->get(), "lo");
}

Result<void> configure_ethernet() {
  auto descriptor = interface_socket();
  if (!descriptor) return std::move(descriptor).error();
  ifreq request = request_for("eth0");
  if (::ioctl(descriptor->get(), SIOCGIFFLAGS, &request) != 0) return {};

  request.ifr_addr = address(guest_address);
  if (::ioctl(descriptor->get(), SIOCSIFADDR, &request) != 0)
    return os_error(errno, "cannot set address", "eth0");
  request.ifr_netmask = address(guest_netmask);
  if (::ioctl(descriptor->get(), SIOCSIFNETMASK, &request) != 0)
    return os_error(errno, "cannot set netmask", "eth0");
  CUBE_TRY(bring_up(descriptor->get(), "eth0"));

  rtentry route{};
  route.rt_dst = address("0.0.0.0");
  route.rt_genmask = address("0.0.0.0");
  route.rt_gateway = address(guest_gateway);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  if (::ioctl(descriptor->get(), SIOCADDRT, &route) != 0 && errno != EEXIST)
    return os_error(errno, "cannot add the default route");
  return {};
}

}  // namespace cube::agent
