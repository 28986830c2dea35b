// cubectl completion, and the hidden cubectl __complete that the scripts call: what can come next is read off
// the tree of commands that parses the command line, and ids and names are asked of the daemon.
#include <algorithm>
#include <cstdio>

#include "command_line.hpp"
#include "human.hpp"
#include "listing.hpp"

namespace cube::cubectl {
namespace {

using asio::awaitable;

// Bash takes words apart at ':' and '=', and replaces the last part only.
constexpr const char* bash_script =
    R"(# bash completion of cubectl; load it with: source <(cubectl completion bash)
_cubectl() {
  local line value head current files=
  local -a words
  read -ra words <<< "${COMP_LINE:0:COMP_POINT}"
  [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]] && words+=("")
  current=${words[-1]}
  head=${current%"${current##*[:=]}"}
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ $line == :files ]]; then
      files=1
      continue
    fi
    value=${line%%$'\t'*}
    [[ $value == *: ]] && compopt -o nospace
    COMPREPLY+=("${value#"$head"}")
  done < <("${words[0]/#\~/$HOME}" __complete -- "${words[@]:1}" 2>/dev/null)
  if [[ -n $files ]]; then
    compopt -o filenames
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$current")
  fi
}
complete -F _cubectl cubectl
)";

constexpr const char* zsh_script = R"(#compdef cubectl
# zsh completion of cubectl; load it with: source <(cubectl completion zsh)
_cubectl() {
  local line value files=
  local -a candidates unfinished
  for line in "${(@f)$("${(Q)words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    value=${line%%$'\t'*}
    if [[ $line == :files ]]; then
      files=1
    elif [[ $value == *: ]]; then
      unfinished+=("$value")
    elif [[ -n $value ]]; then
      candidates+=("${value//:/\\:}:${line#*$'\t'}")
    fi
  done
  (( $#candidates )) && _describe cubectl candidates
  (( $#unfinished )) && compadd -S '' -- "${unfinished[@]}"
  [[ -n $files ]] && _files
  return 0
}
if [[ $funcstack[1] == _cubectl ]]; then
  _cubectl "$@"
else
  compdef _cubectl cubectl
fi
)";

constexpr const char* files_directive = ":files";

struct ShellChoice {
  std::string shell;
};
struct TreeRoot {
  const CLI::App* app;
};

struct Candidate {
  std::string value, description;
};

/// Where the words so far have led.
struct Position {
  const CLI::App* app;
  const CLI::Option* wants_value = nullptr;
  std::size_t positionals = 0;
  bool after_dashes = false;
  TargetOptions target;
};

bool takes_value(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

/// A command has its own options and those of the groups above it.
const CLI::Option* find_option(const CLI::App* app, const std::string& name) {
  for (; app; app = app->get_parent())
    for (const CLI::Option* option : app->get_options({}))
      if (option->nonpositional() && option->check_name(name)) return option;
  return nullptr;
}

const CLI::App* find_command(const CLI::App* app, const std::string& name) {
  for (const CLI::App* command : app->get_subcommands({}))
    if (command->check_name(name)) return command;
  return nullptr;
}

void take_target(const CLI::Option& option, const std::string& value, TargetOptions& target) {
  if (option.check_name("--api-url")) target.url = value;
  if (option.check_name("--api-key")) target.api_key = value;
  if (option.check_name("--api-key-file")) target.api_key_file = value;
}

void advance(Position& position, const std::string& word) {
  if (position.wants_value) {
    take_target(*position.wants_value, word, position.target);
    position.wants_value = nullptr;
  } else if (position.after_dashes) {
    ++position.positionals;
  } else if (word == "--") {
    position.after_dashes = true;
  } else if (word.size() > 1 && word.front() == '-') {
    const std::size_t equals = word.find('=');
    const CLI::Option* option = find_option(position.app, word.substr(0, equals));
    if (!option || !takes_value(*option)) return;
    if (equals == std::string::npos)
      position.wants_value = option;
    else
      take_target(*option, word.substr(equals + 1), position.target);
  } else if (const CLI::App* command = find_command(position.app, word)) {
    position.app = command;
    position.positionals = 0;
  } else {
    ++position.positionals;
  }
}

std::vector<Candidate> option_names(const CLI::App* app) {
  std::vector<Candidate> names;
  for (; app; app = app->get_parent())
    for (const CLI::Option* option : app->get_options({}))
      for (const std::string& name : option->get_lnames())
        if (!option->get_group().empty()) names.push_back({"--" + name, option->get_description()});
  return names;
}

std::vector<Candidate> command_names(const CLI::App* app) {
  std::vector<Candidate> names;
  for (const CLI::App* command : app->get_subcommands({}))
    if (!command->get_group().empty()) names.push_back({command->get_name(), command->get_description()});
  return names;
}

/// "{a,b}" as the types of options show what they accept.
std::vector<Candidate> listed_values(const std::string& type) {
  std::vector<Candidate> values;
  const std::size_t begin = type.find('{'), end = type.find('}');
  if (begin == std::string::npos || end == std::string::npos || end < begin) return values;
  for (const std::string& value : CLI::detail::split(type.substr(begin + 1, end - begin - 1), ','))
    values.push_back({value, {}});
  return values;
}

/// The positional that the next word would be, or nothing.
const CLI::Option* next_positional(const Position& position) {
  std::size_t skipped = 0;
  for (const CLI::Option* option : position.app->get_options({})) {
    if (!option->get_positional()) continue;
    const bool takes_many = option->get_items_expected_max() > 1;
    if (takes_many || skipped == position.positionals) return option;
    ++skipped;
  }
  return nullptr;
}

std::string join_names(JsonValue item, std::string_view name) {
  std::string_view text;
  const auto names = json_array(item, name);
  return !names.empty() && names.front().get(text) == simdjson::SUCCESS ? std::string(text) : std::string();
}

Candidate live_candidate(JsonValue item, const std::string& type) {
  if (type == template_type) {
    const std::string name = join_names(item, "aliases");
    return {name.empty() ? json_string(item, "templateID") : name, json_string(item, "templateID")};
  }
  if (type == snapshot_type) return {json_string(item, "snapshotID"), join_names(item, "names")};
  const std::string alias = json_string(item, "alias");
  return {json_string(item, "sandboxID") + (type == copy_type ? ":" : ""),
          (alias.empty() ? json_string(item, "templateID") : alias) + ", " + json_string(item, "state")};
}

/// Ids and names that the daemon has. None if it cannot be asked: whoever presses Tab wants no error.
awaitable<std::vector<Candidate>> live_values(TargetOptions options, std::string type) {
  std::vector<Candidate> values;
  std::string path;
  if (type == sandbox_type || type == copy_type) path = sandboxes_path({}, {});
  if (type == template_type) path = "/templates";
  if (type == snapshot_type) path = "/snapshots?limit=100";
  auto target = find_target(options);
  if (path.empty() || !target.ok()) co_return values;
  Client client(std::move(*target));
  const auto listing = co_await list_all(client, std::move(path));
  if (!listing.ok()) co_return values;
  for (const JsonValue item : listing->items) values.push_back(live_candidate(item, type));
  co_return values;
}

awaitable<std::vector<Candidate>> values_of(TargetOptions target, const CLI::Option& option) {
  const std::string type = option.get_type_name();
  auto values = co_await live_values(std::move(target), type);
  for (Candidate& value : listed_values(type)) values.push_back(std::move(value));
  if (type == copy_type || option.check_name("--api-key-file")) values.push_back({files_directive, {}});
  co_return values;
}

void print(const Candidate& candidate) {
  std::string line = printable(candidate.value);
  if (!candidate.description.empty()) line += "\t" + printable(candidate.description);
  std::puts(line.c_str());
}

void print_matching(const std::vector<Candidate>& candidates, const std::string& prefix) {
  for (const Candidate& candidate : candidates)
    if (candidate.value == files_directive || candidate.value.starts_with(prefix)) print(candidate);
}

awaitable<Outcome> complete(Session& session, const TreeRoot& root) {
  std::vector<std::string> words = session.after_dashes;
  const std::string current = words.empty() ? std::string() : words.back();
  if (!words.empty()) words.pop_back();
  Position position{root.app, nullptr, 0, false, {}};
  for (const std::string& word : words) advance(position, word);

  std::vector<Candidate> candidates;
  const CLI::Option* positional = next_positional(position);
  if (position.wants_value)
    candidates = co_await values_of(position.target, *position.wants_value);
  else if (!position.after_dashes && current.starts_with('-'))
    candidates = option_names(position.app);
  else if (auto commands = command_names(position.app); !commands.empty())
    candidates = std::move(commands);
  else if (positional)
    candidates = co_await values_of(position.target, *positional);
  print_matching(candidates, current);
  co_return 0;
}

}  // namespace

void add_completion_commands(CommandLine& line) {
  auto choice = std::make_shared<ShellChoice>();
  auto* command =
      line.app.add_subcommand("completion", "print a script that completes commands, options, ids and names");
  command->add_option("shell", choice->shell)->required()->check(CLI::IsMember({"bash", "zsh"}));
  command->footer("Try it: source <(cubectl completion bash)");
  command->fallthrough();
  command->callback([&line, choice] {
    line.immediate = [choice] {
      return std::fputs(choice->shell == "zsh" ? zsh_script : bash_script, stdout) < 0;
    };
  });

  command = line.app.add_subcommand("__complete", "what can follow the words behind --")->group("");
  line.takes_dashes.push_back(command);
  line.runs(command, std::make_shared<TreeRoot>(TreeRoot{&line.app}), complete);
}

}  // namespace cube::cubectl
