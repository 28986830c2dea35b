#include "vmm/machine_state.hpp"

#include "vmm/state_codec.hpp"

namespace cube::vmm {
namespace {

constexpr std::uint64_t magic = 0x45544154'53455543;  // "CUESTATE"
// A change of the device model is one, too: what an old guest found at boot must still be there.
constexpr std::uint32_t version = 2;
constexpr std::uint32_t most_devices = 64;
constexpr std::uint32_t most_msrs = 1024;

void put_vcpu(StateWriter& out, const x86_64::VcpuState& vcpu) {
  out.put(vcpu.registers).put(static_cast<std::uint32_t>(vcpu.msrs.size()));
  for (const kvm_msr_entry& msr : vcpu.msrs) out.put(msr);
}

Result<x86_64::VcpuState> get_vcpu(StateReader& in) {
  x86_64::VcpuState vcpu;
  CUBE_TRY(in.get(vcpu.registers));
  std::uint32_t count = 0;
  CUBE_TRY(in.get(count));
  if (count > most_msrs) return make_error(ErrorCode::corrupt, "the machine state has too many registers");
  vcpu.msrs.resize(count);
  for (kvm_msr_entry& msr : vcpu.msrs) CUBE_TRY(in.get(msr));
  return vcpu;
}

Result<std::uint32_t> get_count(StateReader& in, std::uint32_t most) {
  auto count = in.get<std::uint32_t>();
  if (count.ok() && *count > most)
    return make_error(ErrorCode::corrupt, "the machine state has an impossible count");
  return count;
}

Result<MachineRecord> decode_checked(std::string_view body) {
  StateReader in(body);
  MachineRecord record;
  CUBE_TRY(in.get(record.cpu_fingerprint));
  CUBE_TRY(in.get(record.memory_bytes));
  CUBE_TRY(in.get(record.clock));
  CUBE_TRY(in.get(record.ioapic));
  CUBE_TRY(in.get(record.serial));
  const auto vcpus = get_count(in, max_vcpus);
  if (!vcpus) return vcpus.error();
  for (std::uint32_t i = 0; i < *vcpus; ++i) {
    auto vcpu = get_vcpu(in);
    if (!vcpu) return std::move(vcpu).error();
    record.vcpus.push_back(std::move(*vcpu));
  }
  const auto devices = get_count(in, most_devices);
  if (!devices) return devices.error();
  for (std::uint32_t i = 0; i < *devices; ++i) {
    const auto device = in.get_bytes();
    if (!device) return device.error();
    record.devices.emplace_back(*device);
  }
  if (!in.at_end()) return make_error(ErrorCode::corrupt, "the machine state has bytes left over");
  return record;
}

}  // namespace

MachineState encode(const MachineRecord& record) {
  StateWriter out;
  out.put(magic).put(version);
  out.put(record.cpu_fingerprint)
      .put(record.memory_bytes)
      .put(record.clock)
      .put(record.ioapic)
      .put(record.serial);
  out.put(static_cast<std::uint32_t>(record.vcpus.size()));
  for (const x86_64::VcpuState& vcpu : record.vcpus) put_vcpu(out, vcpu);
  out.put(static_cast<std::uint32_t>(record.devices.size()));
  for (const std::string& device : record.devices) out.put_bytes(device);
  std::string bytes = out.take();
  const std::uint32_t checksum = crc32c(std::as_bytes(std::span(bytes)));
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof checksum);
  return {std::move(bytes)};
}

Result<MachineRecord> decode(const MachineState& state) {
  const std::string_view bytes = state.bytes;
  constexpr std::size_t frame = sizeof magic + sizeof version + sizeof(std::uint32_t);
  if (bytes.size() < frame) return make_error(ErrorCode::corrupt, "the machine state is too short");
  StateReader in(bytes);
  if (*in.get<std::uint64_t>() != magic) return make_error(ErrorCode::corrupt, "not a machine state");
  if (const auto found = *in.get<std::uint32_t>(); found != version)
    return make_error(ErrorCode::conflict, "a machine state of version " + std::to_string(found) +
                                               ", this is " + std::to_string(version) +
                                               ": build the template again");
  const std::string_view body = bytes.substr(0, bytes.size() - sizeof(std::uint32_t));
  std::uint32_t checksum = 0;
  std::memcpy(&checksum, bytes.data() + body.size(), sizeof checksum);
  if (checksum != crc32c(std::as_bytes(std::span(body))))
    return make_error(ErrorCode::corrupt, "the machine state's checksum is wrong");
  return decode_checked(body.substr(sizeof magic + sizeof version));
}

}  // namespace cube::vmm
