#include "vmm/arch/x86_64/acpi.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "vmm/arch/x86_64/layout.hpp"

namespace cube::vmm::x86_64 {
namespace {

/// Little-endian byte string.
class Bytes {
 public:
  Bytes& u8(unsigned value) { return number(value, 1); }
  Bytes& u16(unsigned value) { return number(value, 2); }
  Bytes& u32(std::uint64_t value) { return number(value, 4); }
  Bytes& u64(std::uint64_t value) { return number(value, 8); }
  Bytes& text(std::string_view value) {
    data_ += value;
    return *this;
  }
  Bytes& zeros(std::size_t count) {
    data_.append(count, '\0');
    return *this;
  }
  std::size_t size() const { return data_.size(); }
  const std::string& data() const { return data_; }
  std::string& data() { return data_; }

 private:
  Bytes& number(std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) data_ += static_cast<char>(value >> 8 * i);
    return *this;
  }
  std::string data_;
};

// The byte that makes all of them add up to 0.
std::uint8_t checksum(std::string_view bytes) {
  const auto add = [](unsigned sum, char byte) { return sum + static_cast<unsigned char>(byte); };
  return static_cast<std::uint8_t>(0u - std::accumulate(bytes.begin(), bytes.end(), 0u, add));
}

constexpr std::size_t header_bytes = 36;
constexpr std::size_t header_checksum_offset = 9;

// ACPI 6.5, 5.2.6: the header every table but the RSDP starts with.
std::string table(std::string_view signature, unsigned revision, const Bytes& body) {
  Bytes bytes;
  bytes.text(signature).u32(header_bytes + body.size()).u8(revision).u8(0);
  bytes.text("CUBED ").text("CUBEDVMM").u32(1).text("CUBE").u32(1);
  bytes.text(body.data());
  bytes.data()[header_checksum_offset] = static_cast<char>(checksum(bytes.data()));
  return bytes.data();
}

// --- AML, only as much as a list of devices needs (ACPI 6.5, chapter 20) ---

constexpr unsigned op_name = 0x08, op_scope = 0x10, op_buffer = 0x11, op_package = 0x12, op_method = 0x14,
                   op_extended = 0x5b, op_device = 0x82, op_notify = 0x86, prefix_byte = 0x0a,
                   prefix_double_word = 0x0c, prefix_string = 0x0d;

// PkgLength (20.2.4) counts its own bytes.
std::string package_length(std::size_t content) {
  Bytes bytes;
  if (content + 1 <= 0x3f) return bytes.u8(static_cast<unsigned>(content + 1)).data();
  const unsigned extra = content + 2 <= 0xfff ? 1 : 2;
  const std::size_t total = content + 1 + extra;
  bytes.u8(static_cast<unsigned>(extra << 6 | (total & 0xf)));
  for (unsigned i = 0; i < extra; ++i) bytes.u8(static_cast<unsigned>(total >> (4 + 8 * i) & 0xff));
  return bytes.data();
}

std::string package(std::initializer_list<unsigned> opcode, std::string_view content) {
  Bytes bytes;
  for (unsigned byte : opcode) bytes.u8(byte);
  return bytes.text(package_length(content.size())).text(content).data();
}

std::string named(std::string_view name, std::string_view object) {
  return Bytes().u8(op_name).text(name).text(object).data();
}

std::string string_object(std::string_view text) { return Bytes().u8(prefix_string).text(text).u8(0).data(); }

// 6.4.3.4 and 6.4.3.6: a fixed memory window, an edge-triggered exclusive interrupt.
std::string window_resource(const DeviceWindow& window) {
  return Bytes().u8(0x86).u16(9).u8(1).u32(window.address).u32(window.bytes).data();
}
std::string interrupt_resource(std::uint32_t pin) {
  return Bytes().u8(0x89).u16(6).u8(0x03).u8(1).u32(pin).data();
}

std::string resources(std::string_view list) {
  constexpr std::size_t end_tag_bytes = 2;
  Bytes buffer;
  buffer.u8(prefix_byte).u8(static_cast<unsigned>(list.size() + end_tag_bytes)).text(list).u8(0x79).u8(0);
  return package({op_buffer}, buffer.data());
}

std::string virtio_device(unsigned index, const DeviceWindow& window) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  Bytes content;
  content.text("VR")
      .u8(static_cast<unsigned char>(digits[index >> 4 & 15]))
      .u8(static_cast<unsigned char>(digits[index & 15]));
  content.text(named("_HID", string_object("LNRO0005")));  // what Linux's virtio_mmio binds to
  content.text(named("_UID", Bytes().u8(prefix_byte).u8(index).data()));
  content.text(named("_CRS", resources(window_resource(window) + interrupt_resource(window.pin))));
  return package({op_extended, op_device}, content.data());
}

// Microsoft's "Virtual Machine Generation ID" (2012): ADDR names the 16 bytes, a notification of 0x80 says
// that they changed. Linux's drivers/virt/vmgenid.c binds to the short name, a fixed spelling of the original
// one.
std::string generation_device() {
  const auto number = [](std::uint64_t value) { return Bytes().u8(prefix_double_word).u32(value).data(); };
  const std::string names = string_object("VM_Gen_Counter") + string_object("VMGENCTR");
  const std::string halves = number(generation_id_address) + number(generation_id_address >> 32);
  const auto pair = [](const std::string& objects) {
    return package({op_package}, Bytes().u8(2).text(objects).data());
  };
  Bytes content;
  content.text("VGEN");
  content.text(named("_HID", string_object("CUBE0001")));
  content.text(named("_CID", pair(names)));
  content.text(named("_DDN", string_object("VM_Gen_Counter")));
  content.text(named("ADDR", pair(halves)));
  return package({op_extended, op_device}, content.data());
}

// 5.6.9: the Generic Event Device, whose one interrupt is the notification above.
std::string event_device() {
  constexpr unsigned one_argument = 1, id_changed = 0x80;
  Bytes event;
  event.text("_EVT").u8(one_argument).u8(op_notify).text("VGEN").u8(prefix_byte).u8(id_changed);
  Bytes content;
  content.text("GED_");
  content.text(named("_HID", string_object("ACPI0013")));
  content.text(named("_CRS", resources(interrupt_resource(generation_pin))));
  content.text(package({op_method}, event.data()));
  return package({op_extended, op_device}, content.data());
}

std::string dsdt(std::span<const DeviceWindow> windows) {
  Bytes scope;
  scope.text("_SB_");
  for (unsigned i = 0; i < windows.size(); ++i) scope.text(virtio_device(i, windows[i]));
  scope.text(generation_device()).text(event_device());
  Bytes body;
  body.text(package({op_scope}, scope.data()));
  return table("DSDT", 2, body);
}

// 5.2.12
std::string madt(std::uint32_t vcpu_count) {
  Bytes body;
  body.u32(local_apic_address).u32(0);
  for (std::uint32_t id = 0; id < vcpu_count; ++id) body.u8(0).u8(8).u8(id).u8(id).u32(1);
  body.u8(1).u8(12).u8(0).u8(0).u32(ioapic_address).u32(0);
  return table("APIC", 4, body);
}

// 5.2.9; offsets below are from the start of the table.
std::string fadt(std::uint64_t dsdt_address) {
  constexpr std::uint32_t hardware_reduced = 1u << 20, no_power_button = 1u << 4, no_sleep_button = 1u << 5;
  constexpr unsigned no_vga = 1u << 2, no_rtc = 1u << 5;
  Bytes body;
  body.zeros(109 - header_bytes)
      .u16(no_vga | no_rtc)
      .u8(0)
      .u32(hardware_reduced | no_power_button | no_sleep_button);
  body.zeros(131 - header_bytes - body.size()).u8(5);  // minor version
  body.zeros(140 - header_bytes - body.size()).u64(dsdt_address);
  body.zeros(268 - header_bytes - body.size()).text("CUBEDVMM");
  return table("FACP", 6, body);
}

std::string xsdt(std::initializer_list<std::uint64_t> addresses) {
  Bytes body;
  for (std::uint64_t address : addresses) body.u64(address);
  return table("XSDT", 1, body);
}

// 5.2.5.3
std::string rsdp(std::uint64_t xsdt_address) {
  Bytes bytes;
  bytes.text("RSD PTR ").u8(0).text("CUBED ").u8(2).u32(0).u32(36).u64(xsdt_address).u8(0).zeros(3);
  bytes.data()[8] = static_cast<char>(checksum(std::string_view(bytes.data()).substr(0, 20)));
  bytes.data()[32] = static_cast<char>(checksum(bytes.data()));
  return bytes.data();
}

}  // namespace

Result<void> write_acpi_tables(const GuestMemory& memory, std::uint32_t vcpu_count,
                               std::span<const DeviceWindow> windows) {
  constexpr std::uint64_t rsdp_room = 64;
  std::string tables;
  const auto place = [&](const std::string& bytes) {
    const std::uint64_t address = acpi_address + rsdp_room + tables.size();
    tables += bytes;
    tables.resize((tables.size() + 15) / 16 * 16);
    return address;
  };
  const std::uint64_t dsdt_address = place(dsdt(windows));
  const std::uint64_t fadt_address = place(fadt(dsdt_address));
  const std::uint64_t madt_address = place(madt(vcpu_count));
  const std::uint64_t xsdt_address = place(xsdt({fadt_address, madt_address}));

  std::string image = rsdp(xsdt_address);
  image.resize(rsdp_room);
  image += tables;
  if (image.size() > acpi_capacity)
    return make_error(ErrorCode::invalid_argument, "too many devices for the ACPI tables");
  auto target = memory.slice(acpi_address, image.size());
  if (!target) return std::move(target).error();
  std::memcpy(target->data(), image.data(), image.size());
  return {};
}

}  // namespace cube::vmm::x86_64
