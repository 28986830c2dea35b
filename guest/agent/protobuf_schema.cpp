#include "protobuf_schema.hpp"

#include <algorithm>
#include <array>

namespace cube::agent::protobuf {
namespace {

constexpr Field field(std::uint32_t number, std::string_view name, Kind kind,
                      Presence presence = Presence::implicit) {
  return {number, name, kind, presence};
}
constexpr Field field(std::uint32_t number, std::string_view name, const Message& message,
                      Presence presence = Presence::implicit) {
  return {number, name, Kind::message, presence, &message};
}
constexpr Field field(std::uint32_t number, std::string_view name, std::span<const EnumValue> values) {
  return {number, name, Kind::enumeration, Presence::implicit, nullptr, values};
}

constexpr Message empty{"an empty message", {}};

// process.proto

constexpr std::array size_fields{field(1, "cols", Kind::uint32), field(2, "rows", Kind::uint32)};
constexpr Message size{"PTY.Size", size_fields};
constexpr std::array pty_fields{field(1, "size", size)};
constexpr Message pty{"PTY", pty_fields};

constexpr std::array selector_fields{field(1, "pid", Kind::uint32, Presence::oneof),
                                     field(2, "tag", Kind::string, Presence::oneof)};
constexpr Message selector{"ProcessSelector", selector_fields};
/// ConnectRequest, CloseStdinRequest and StreamInputRequest.StartEvent alike.
constexpr std::array selection_fields{field(1, "process", selector)};
constexpr Message selection{"a request that names a process", selection_fields};

constexpr std::array config_fields{
    field(1, "cmd", Kind::string), field(2, "args", Kind::string, Presence::repeated),
    field(3, "envs", Kind::string_map), field(4, "cwd", Kind::string, Presence::explicitly)};
constexpr Message config{"ProcessConfig", config_fields};

constexpr std::array process_info_fields{field(1, "config", config), field(2, "pid", Kind::uint32),
                                         field(3, "tag", Kind::string, Presence::explicitly)};
constexpr Message process_info{"ProcessInfo", process_info_fields};
constexpr std::array list_response_fields{field(1, "processes", process_info, Presence::repeated)};
constexpr Message list_response{"ListResponse", list_response_fields};

constexpr std::array start_request_fields{field(1, "process", config),
                                          field(2, "pty", pty, Presence::explicitly),
                                          field(3, "tag", Kind::string, Presence::explicitly),
                                          field(4, "stdin", Kind::boolean, Presence::explicitly)};
constexpr Message start_request{"StartRequest", start_request_fields};

constexpr std::array update_request_fields{field(1, "process", selector),
                                           field(2, "pty", pty, Presence::explicitly)};
constexpr Message update_request{"UpdateRequest", update_request_fields};

constexpr std::array input_fields{field(1, "stdin", Kind::bytes, Presence::oneof),
                                  field(2, "pty", Kind::bytes, Presence::oneof)};
constexpr Message input{"ProcessInput", input_fields};
constexpr std::array send_input_request_fields{field(1, "process", selector), field(2, "input", input)};
constexpr Message send_input_request{"SendInputRequest", send_input_request_fields};

constexpr std::array stream_data_fields{field(2, "input", input)};
constexpr Message stream_data{"StreamInputRequest.DataEvent", stream_data_fields};
constexpr std::array stream_input_request_fields{field(1, "start", selection, Presence::oneof),
                                                 field(2, "data", stream_data, Presence::oneof),
                                                 field(3, "keepalive", empty, Presence::oneof)};
constexpr Message stream_input_request{"StreamInputRequest", stream_input_request_fields};

constexpr std::array signals{EnumValue{0, "SIGNAL_UNSPECIFIED"}, EnumValue{9, "SIGNAL_SIGKILL"},
                             EnumValue{15, "SIGNAL_SIGTERM"}};
constexpr std::array send_signal_request_fields{field(1, "process", selector), field(2, "signal", signals)};
constexpr Message send_signal_request{"SendSignalRequest", send_signal_request_fields};

constexpr std::array started_fields{field(1, "pid", Kind::uint32)};
constexpr Message started{"ProcessEvent.StartEvent", started_fields};
constexpr std::array output_fields{field(1, "stdout", Kind::bytes, Presence::oneof),
                                   field(2, "stderr", Kind::bytes, Presence::oneof),
                                   field(3, "pty", Kind::bytes, Presence::oneof)};
constexpr Message output{"ProcessEvent.DataEvent", output_fields};
constexpr std::array ended_fields{field(1, "exitCode", Kind::sint32), field(2, "exited", Kind::boolean),
                                  field(3, "status", Kind::string),
                                  field(4, "error", Kind::string, Presence::explicitly)};
constexpr Message ended{"ProcessEvent.EndEvent", ended_fields};
constexpr std::array process_event_fields{
    field(1, "start", started, Presence::oneof), field(2, "data", output, Presence::oneof),
    field(3, "end", ended, Presence::oneof), field(4, "keepalive", empty, Presence::oneof)};
constexpr Message process_event{"ProcessEvent", process_event_fields};
/// StartResponse and ConnectResponse alike.
constexpr std::array process_response_fields{field(1, "event", process_event)};
constexpr Message process_response{"StartResponse", process_response_fields};

// filesystem.proto

/// StatRequest, MakeDirRequest and RemoveRequest alike.
constexpr std::array path_fields{field(1, "path", Kind::string)};
constexpr Message path{"a request that names a path", path_fields};

constexpr std::array move_request_fields{field(1, "source", Kind::string),
                                         field(2, "destination", Kind::string)};
constexpr Message move_request{"MoveRequest", move_request_fields};

constexpr std::array file_types{EnumValue{0, "FILE_TYPE_UNSPECIFIED"}, EnumValue{1, "FILE_TYPE_FILE"},
                                EnumValue{2, "FILE_TYPE_DIRECTORY"}, EnumValue{3, "FILE_TYPE_SYMLINK"}};
constexpr std::array entry_fields{field(1, "name", Kind::string),
                                  field(2, "type", file_types),
                                  field(3, "path", Kind::string),
                                  field(4, "size", Kind::int64),
                                  field(5, "mode", Kind::uint32),
                                  field(6, "permissions", Kind::string),
                                  field(7, "owner", Kind::string),
                                  field(8, "group", Kind::string),
                                  field(9, "modifiedTime", Kind::timestamp),
                                  field(10, "symlinkTarget", Kind::string, Presence::explicitly),
                                  field(11, "metadata", Kind::string_map),
                                  field(12, "isSymlink", Kind::boolean)};
constexpr Message entry{"EntryInfo", entry_fields};
/// StatResponse, MakeDirResponse and MoveResponse alike.
constexpr std::array entry_response_fields{field(1, "entry", entry)};
constexpr Message entry_response{"StatResponse", entry_response_fields};

constexpr std::array list_directory_request_fields{field(1, "path", Kind::string),
                                                   field(2, "depth", Kind::uint32)};
constexpr Message list_directory_request{"ListDirRequest", list_directory_request_fields};
constexpr std::array list_directory_response_fields{field(1, "entries", entry, Presence::repeated)};
constexpr Message list_directory_response{"ListDirResponse", list_directory_response_fields};

/// WatchDirRequest and CreateWatcherRequest alike.
constexpr std::array watch_request_fields{
    field(1, "path", Kind::string), field(2, "recursive", Kind::boolean),
    field(3, "includeEntry", Kind::boolean), field(4, "allowNetworkMounts", Kind::boolean)};
constexpr Message watch_request{"WatchDirRequest", watch_request_fields};

constexpr std::array event_types{EnumValue{0, "EVENT_TYPE_UNSPECIFIED"}, EnumValue{1, "EVENT_TYPE_CREATE"},
                                 EnumValue{2, "EVENT_TYPE_WRITE"},       EnumValue{3, "EVENT_TYPE_REMOVE"},
                                 EnumValue{4, "EVENT_TYPE_RENAME"},      EnumValue{5, "EVENT_TYPE_CHMOD"}};
constexpr std::array filesystem_event_fields{field(1, "name", Kind::string), field(2, "type", event_types),
                                             field(3, "entry", entry, Presence::explicitly)};
constexpr Message filesystem_event{"FilesystemEvent", filesystem_event_fields};
constexpr std::array watch_response_fields{field(1, "start", empty, Presence::oneof),
                                           field(2, "filesystem", filesystem_event, Presence::oneof),
                                           field(3, "keepalive", empty, Presence::oneof)};
constexpr Message watch_response{"WatchDirResponse", watch_response_fields};

/// CreateWatcherResponse, GetWatcherEventsRequest and RemoveWatcherRequest alike.
constexpr std::array watcher_fields{field(1, "watcherId", Kind::string)};
constexpr Message watcher{"a message that names a watcher", watcher_fields};
constexpr std::array watcher_events_fields{field(1, "events", filesystem_event, Presence::repeated)};
constexpr Message watcher_events{"GetWatcherEventsResponse", watcher_events_fields};

constexpr std::array methods{
    MethodTypes{"/process.Process/List", &empty, &list_response},
    MethodTypes{"/process.Process/Connect", &selection, &process_response},
    MethodTypes{"/process.Process/Start", &start_request, &process_response},
    MethodTypes{"/process.Process/Update", &update_request, &empty},
    MethodTypes{"/process.Process/StreamInput", &stream_input_request, &empty},
    MethodTypes{"/process.Process/SendInput", &send_input_request, &empty},
    MethodTypes{"/process.Process/SendSignal", &send_signal_request, &empty},
    MethodTypes{"/process.Process/CloseStdin", &selection, &empty},
    MethodTypes{"/filesystem.Filesystem/Stat", &path, &entry_response},
    MethodTypes{"/filesystem.Filesystem/MakeDir", &path, &entry_response},
    MethodTypes{"/filesystem.Filesystem/Move", &move_request, &entry_response},
    MethodTypes{"/filesystem.Filesystem/ListDir", &list_directory_request, &list_directory_response},
    MethodTypes{"/filesystem.Filesystem/Remove", &path, &empty},
    MethodTypes{"/filesystem.Filesystem/WatchDir", &watch_request, &watch_response},
    MethodTypes{"/filesystem.Filesystem/CreateWatcher", &watch_request, &watcher},
    MethodTypes{"/filesystem.Filesystem/GetWatcherEvents", &watcher, &watcher_events},
    MethodTypes{"/filesystem.Filesystem/RemoveWatcher", &watcher, &empty},
};

}  // namespace

std::span<const MethodTypes> all_methods() { return methods; }

const MethodTypes* find_method(std::string_view path) {
  const auto found = std::ranges::find(methods, path, &MethodTypes::path);
  return found == methods.end() ? nullptr : &*found;
}

}  // namespace cube::agent::protobuf
