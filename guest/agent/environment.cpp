#include "environment.hpp"

namespace cube::agent {

std::map<std::string, std::string> default_environment(const Settings& settings) {
  std::map<std::string, std::string> variables{
      {"E2B_SANDBOX", "true"},
      {"E2B_SANDBOX_ID", settings.sandbox_id},
      {"E2B_TEMPLATE_ID", settings.template_id},
  };
  for (const auto& [name, value] : settings.env_vars) variables[name] = value;
  return variables;
}

Result<std::vector<std::string>> environment_for(const Settings& settings, const User& user,
                                                 const std::map<std::string, std::string>& requested) {
  std::map<std::string, std::string> variables{
      {"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
      {"HOME", user.home},
      {"USER", user.name},
      {"LOGNAME", user.name},
      {"SHELL", user.shell},
  };
  for (auto& [name, value] : default_environment(settings)) variables[name] = value;
  for (const auto& [name, value] : requested) variables[name] = value;

  std::vector<std::string> environment;
  environment.reserve(variables.size());
  for (const auto& [name, value] : variables) {
    if (name.empty() || name.find_first_of(std::string_view("=\0", 2)) != std::string::npos ||
        value.find('\0') != std::string::npos)
      return make_error(ErrorCode::invalid_argument, "environment variable '" + name + "' is not valid");
    environment.push_back(name + "=" + value);
  }
  return environment;
}

}  // namespace cube::agent
