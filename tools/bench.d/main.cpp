// cube-bench: measures a running daemon from beside it; tools/bench starts one.
#include <CLI/CLI.hpp>

#include "tables.hpp"

int main(int argc, char** argv) {
  using namespace cube::bench;
  Target target;
  CreateOptions create;
  DensityOptions density;
  ChurnOptions churn;
  StateOptions state;
  CommandsOptions commands;
  CLI::App app{"cube-bench: measures a running cubed; tools/bench starts one in the lab"};
  app.require_subcommand(1);
  app.add_option("--port", target.port)->capture_default_str();
  app.add_option("--api-key", target.api_key)->envname("E2B_API_KEY");

  CLI::App* creates =
      app.add_subcommand("create", "request to a command's first output, 1, 10 and 50 at once");
  creates->add_option("--template", create.template_name)->capture_default_str();
  creates->add_option("--label", create.label, "what the table is called")->capture_default_str();
  creates->add_option("--samples", create.samples, "of each row, at least")->capture_default_str();
  creates->add_flag("--warm", create.warm,
                    "before each round, wait until the warm pool has one for each client");

  CLI::App* densities = app.add_subcommand("density", "memory of idle clones, and the speed of the last");
  densities->add_option("--template", density.template_name)->capture_default_str();
  densities->add_option("--count", density.count, "clones kept")->capture_default_str();
  densities->add_option("--spare", density.spare_mib, "MiB of memory that stay available")
      ->capture_default_str();

  CLI::App* churns = app.add_subcommand("churn", "sandboxes created and destroyed as fast as it goes");
  churns->add_option("--template", churn.template_name)->capture_default_str();
  churns->add_option("--count", churn.count)->capture_default_str();
  churns->add_option("--clients", churn.clients)->capture_default_str();

  CLI::App* states =
      app.add_subcommand("state", "checkpoint, pause, resume, fork, rollback by what is dirty");
  states->add_option("--template", state.template_name)->capture_default_str();
  states->add_option("--large-template", state.large_template, "the same with more memory, to compare with");
  states->add_option("--rounds", state.rounds)->capture_default_str();
  states->add_option("--most-forks", state.most_forks)->capture_default_str();

  CLI::App* runs =
      app.add_subcommand("commands", "round trips of commands, beside the guest's own fork and exec");
  runs->add_option("--template", commands.template_name)->capture_default_str();
  runs->add_option("--rounds", commands.rounds)->capture_default_str();
  runs->add_option("--sandboxes", commands.sandboxes)->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  if (creates->parsed()) create_table(target, create);
  if (densities->parsed()) density_table(target, density);
  if (churns->parsed()) return churn_table(target, churn);
  if (states->parsed()) state_table(target, state);
  if (runs->parsed()) commands_table(target, commands);
  return 0;
}
