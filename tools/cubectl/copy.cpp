// cubectl sandbox cp.
#include <algorithm>
#include <cctype>

#include "command_line.hpp"
#include "file_tree.hpp"
#include "json.hpp"
#include "progress.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

constexpr std::size_t piece_size = 256 << 10;

struct CopyOptions {
  std::string source, destination, user;
};

/// One end of the copy, as it was written.
struct Place {
  std::string sandbox;  ///< empty: this machine
  std::string path;
  bool is_stream() const { return sandbox.empty() && path == "-"; }
};

struct Copy {
  FileTree& from;
  FileTree& to;
  Progress progress;
  std::uint64_t files = 0, directories = 0, bytes = 0, skipped = 0;
};

struct Job {
  std::string from, to;
};

/// "abc123:/tmp/x" is in a sandbox, and "./abc:x" is not.
Place parse_place(const std::string& text) {
  const std::size_t colon = text.find(':');
  const bool named =
      colon != std::string::npos && colon > 0 &&
      std::all_of(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(colon), [](char c) {
        return std::islower(static_cast<unsigned char>(c)) || (c >= '0' && c <= '9') || c == '-';
      });
  if (!named) return {{}, text};
  std::string path = text.substr(colon + 1);
  return {text.substr(0, colon), path.empty() ? "." : path};
}

std::string join(const std::string& directory, const std::string& name) {
  return directory.ends_with('/') ? directory + name : directory + "/" + name;
}

/// The last part of a path: what a copy into a directory is called. Empty for ".", ".." and "/".
std::string last_name(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  std::string name = path.substr(path.rfind('/') + 1);
  return name == "." || name == ".." || name == "~" ? std::string() : name;
}

/// An error that says which file it is about.
Error about(Error error, const FileTree& tree, const std::string& path) {
  error.object = tree.describe(path);
  return error;
}

awaitable<Result<void>> pump(FileReader& reader, FileWriter& writer, Copy& copy, Job names) {
  std::vector<char> piece(piece_size);
  for (;;) {
    const auto count = co_await reader.read(asio::buffer(piece));
    if (!count.ok()) co_return about(count.error(), copy.from, names.from);
    if (*count == 0) break;
    const auto written = co_await writer.write(asio::buffer(piece.data(), *count));
    if (!written.ok()) co_return about(written.error(), copy.to, names.to);
    copy.progress.advance(*count);
    copy.bytes += *count;
  }
  const auto finished = co_await writer.finish();
  if (!finished.ok()) co_return about(finished.error(), copy.to, names.to);
  ++copy.files;
  co_return Result<void>{};
}

awaitable<Result<void>> copy_file(Copy& copy, Job job, FileInfo info) {
  copy.progress.begin(last_name(job.from), info.size);
  auto reader = co_await copy.from.open_to_read(job.from);
  if (!reader) co_return about(std::move(reader).error(), copy.from, job.from);
  auto writer = co_await copy.to.open_to_write(job.to, info.mode);
  if (!writer) co_return about(std::move(writer).error(), copy.to, job.to);
  co_return co_await pump(**reader, **writer, copy, std::move(job));
}

/// Not silently: what could not be copied is named, and the exit status tells.
void skip(Copy& copy, const std::string& path, const FileInfo& info) {
  copy.progress.clear();
  ++copy.skipped;
  complain("skipped " + copy.from.describe(path) +
           (info.is_link ? ": a link to a directory or to nothing" : ": neither a file nor a directory"));
}

awaitable<Result<void>> copy_directory(Copy& copy, Job root, unsigned mode) {
  std::vector<std::pair<Job, unsigned>> waiting;
  waiting.emplace_back(std::move(root), mode);
  while (!waiting.empty()) {
    const Job job = std::move(waiting.back().first);
    const unsigned own_mode = waiting.back().second;
    waiting.pop_back();
    const auto made = co_await copy.to.make_directory(job.to, own_mode);
    if (!made.ok()) co_return about(made.error(), copy.to, job.to);
    ++copy.directories;
    const auto entries = co_await copy.from.list(job.from);
    if (!entries.ok()) co_return about(entries.error(), copy.from, job.from);
    for (const FileInfo& entry : *entries) {
      Job inner{join(job.from, entry.name), join(job.to, entry.name)};
      if (entry.kind == FileInfo::Kind::file) {
        const auto copied = co_await copy_file(copy, std::move(inner), entry);
        if (!copied.ok()) co_return copied.error();
      } else if (entry.kind == FileInfo::Kind::directory && !entry.is_link) {
        waiting.emplace_back(std::move(inner), entry.mode);
      } else {
        skip(copy, inner.from, entry);
      }
    }
  }
  co_return Result<void>{};
}

/// Where it really goes: into a directory that is there, under its own name.
awaitable<Result<std::string>> place_for(Copy& copy, std::string source, FileInfo info,
                                         std::string destination) {
  const auto there = co_await copy.to.look_at(destination);
  if (!there.ok()) co_return about(there.error(), copy.to, destination);
  const bool is_directory = there->has_value() && (*there)->kind == FileInfo::Kind::directory;
  const bool source_is_directory = info.kind == FileInfo::Kind::directory;
  if (!is_directory && destination.ends_with('/') && !source_is_directory) {
    const auto error = make_error(ErrorCode::not_found, "there is no such directory");
    co_return about(error, copy.to, destination);
  }
  if (is_directory) {
    const std::string name = last_name(source);
    // The content of "." goes right into the directory.
    if (name.empty()) co_return destination;
    co_return join(destination, name);
  }
  if (there->has_value() && source_is_directory) {
    const auto error =
        make_error(ErrorCode::invalid_argument, "is no directory, and a directory cannot replace it");
    co_return about(error, copy.to, destination);
  }
  co_return destination;
}

awaitable<Result<void>> copy_path(Copy& copy, std::string source, std::string destination) {
  const auto found = co_await copy.from.look_at(source);
  if (!found.ok()) co_return about(found.error(), copy.from, source);
  if (!found->has_value()) {
    const auto error = make_error(ErrorCode::not_found, "no such file or directory");
    co_return about(error, copy.from, source);
  }
  const FileInfo info = **found;
  auto target = co_await place_for(copy, source, info, std::move(destination));
  if (!target) co_return std::move(target).error();
  Job job{std::move(source), std::move(*target)};
  if (info.kind == FileInfo::Kind::directory)
    co_return co_await copy_directory(copy, std::move(job), info.mode);
  co_return co_await copy_file(copy, std::move(job), info);
}

awaitable<Result<void>> copy_from_input(Copy& copy, std::string destination) {
  const auto there = co_await copy.to.look_at(destination);
  if (!there.ok()) co_return about(there.error(), copy.to, destination);
  if (destination.ends_with('/') || (there->has_value() && (*there)->kind == FileInfo::Kind::directory)) {
    const auto error = make_error(ErrorCode::invalid_argument, "is a directory; name the file to write");
    co_return about(error, copy.to, destination);
  }
  constexpr unsigned mode = 0644;
  auto writer = co_await copy.to.open_to_write(destination, mode);
  if (!writer) co_return about(std::move(writer).error(), copy.to, destination);
  const auto reader = make_input_reader();
  copy.progress.begin("standard input", 0);
  Job names{"standard input", std::move(destination)};
  co_return co_await pump(*reader, **writer, copy, std::move(names));
}

awaitable<Result<void>> copy_to_output(Copy& copy, std::string source) {
  auto reader = co_await copy.from.open_to_read(source);
  if (!reader) co_return about(std::move(reader).error(), copy.from, source);
  const auto writer = make_output_writer();
  copy.progress.begin(last_name(source), 0);
  Job names{std::move(source), "standard output"};
  co_return co_await pump(**reader, *writer, copy, std::move(names));
}

awaitable<Result<std::unique_ptr<FileTree>>> open_tree(Session& session, Place place, std::string user) {
  if (place.sandbox.empty()) co_return make_local_tree();
  auto sandbox = co_await reach_sandbox(session.client, std::move(place.sandbox), std::move(user));
  if (!sandbox) co_return std::move(sandbox).error();
  co_return make_sandbox_tree(session.client, std::move(*sandbox));
}

Result<void> check(const Place& source, const Place& destination) {
  const auto refused = [](const char* why) { return make_error(ErrorCode::invalid_argument, why); };
  if (source.sandbox.empty() && destination.sandbox.empty())
    return refused("one of the two must be in a sandbox: SANDBOX:PATH");
  if (source.sandbox == destination.sandbox)
    return refused(
        "both are in the same sandbox; use cubectl sandbox exec SANDBOX -- cp -r SOURCE DESTINATION");
  return {};
}

void print_result(const Copy& copy) {
  JsonWriter json;
  json.begin_object().key("files").value(copy.files).key("directories").value(copy.directories);
  json.key("bytes").value(copy.bytes).key("skipped").value(copy.skipped).end_object();
  print_json(json.text());
}

awaitable<Outcome> copy_command(Session& session, const CopyOptions& options) {
  const Place source = parse_place(options.source), destination = parse_place(options.destination);
  const auto sensible = check(source, destination);
  if (!sensible.ok()) co_return sensible.error();
  auto from = co_await open_tree(session, source, options.user);
  if (!from) co_return std::move(from).error();
  auto to = co_await open_tree(session, destination, options.user);
  if (!to) co_return std::move(to).error();

  Copy copy{**from, **to, {}};
  Result<void> copied;
  if (source.is_stream())
    copied = co_await copy_from_input(copy, destination.path);
  else if (destination.is_stream())
    copied = co_await copy_to_output(copy, source.path);
  else
    copied = co_await copy_path(copy, source.path, destination.path);
  if (copied.ok()) copied = co_await (*to)->finish();
  copy.progress.clear();
  if (!copied.ok()) co_return copied.error();
  if (session.json && !destination.is_stream()) print_result(copy);
  co_return copy.skipped == 0 ? 0 : 1;
}

}  // namespace

void add_copy_command(CommandLine& line, CLI::App& group) {
  auto options = std::make_shared<CopyOptions>();
  auto* command = group.add_subcommand("cp", "copy files and directories into, out of and between sandboxes");
  command->add_option("source", options->source, "- is standard input")->required()->type_name(copy_type);
  command->add_option("destination", options->destination, "- is standard output")
      ->required()
      ->type_name(copy_type);
  command->add_option("-u,--user", options->user, "whose files they are inside [the sandbox's default user]");
  command->footer(
      "PATH is here (write ./a:b if it has a colon), SANDBOX:PATH is in a sandbox, relative to the user's "
      "home. Directories are copied with "
      "all that is\n"
      "in them, into a destination that is there or as one that is not; permissions go along. Links are "
      "copied as the\n"
      "files they lead to; links to directories, sockets and the like are named and left out, and the exit "
      "status is 1.\n"
      "Examples: cubectl sandbox cp ./project SANDBOX:work     cubectl sandbox cp SANDBOX:/etc/hosts -");
  line.runs(command, options, copy_command);
}

}  // namespace cube::cubectl
