// The tables of cube-bench, one a subcommand. Each measures a running daemon from beside it.
#pragma once

#include <string>

#include "session.hpp"

namespace cube::bench {

/// Request to the first byte of a command's output, one client and many. With `warm` each round starts with a
/// waiting sandbox for every client: pool hits only.
struct CreateOptions {
  std::string template_name = "base";
  std::string label = "pool miss";
  int samples = 50;
  bool warm = false;
};
void create_table(const Target& target, const CreateOptions& options);

/// Marginal memory of idle clones, and whether the last are made as fast as the first.
struct DensityOptions {
  std::string template_name = "base";
  int count = 1000;
  std::uint64_t spare_mib = 1024;  ///< stops before less than that is available
};
void density_table(const Target& target, const DensityOptions& options);

/// Sandboxes created and destroyed as fast as it goes. 1 if any of that failed.
struct ChurnOptions {
  std::string template_name = "base";
  int count = 1000;
  int clients = 4;
};
int churn_table(const Target& target, const ChurnOptions& options);

/// Round trips of `commands.run("true")` on one sandbox and on many, beside what the same shell costs the
/// guest when it starts it itself.
struct CommandsOptions {
  std::string template_name = "base";
  int rounds = 200;    ///< on one sandbox
  int sandboxes = 50;  ///< of the second part, each with a client of its own
};
void commands_table(const Target& target, const CommandsOptions& options);

/// Checkpoint, pause, resume, fork and rollback by how much was changed.
struct StateOptions {
  std::string template_name = "base";
  std::string large_template;  ///< the same with more memory: what costs only what is dirty costs the same
  int rounds = 5;
  int most_forks = 100;
};
void state_table(const Target& target, const StateOptions& options);

}  // namespace cube::bench
