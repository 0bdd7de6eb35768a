# For `dev`: how a wrong command line is refused.
# shellcheck shell=bash

# Of a wrong command line, before anything is installed or built.
refuse() {
  printf 'dev: %s; ./dev help has the arguments\n' "$*" >&2
  exit 2
}

# takes_nothing COMMAND ARGUMENT...
takes_nothing() {
  (($# == 1)) || refuse "$1: unknown argument '$2'; it takes none"
}

# whole_number NAME VALUE LEAST [MOST]
whole_number() {
  local most=${4:-999999999999999999}
  if [[ ! $2 =~ ^(0|[1-9][0-9]{0,17})$ ]] || (($2 < $3 || $2 > most)); then
    refuse "$1 must be a whole number from $3${4:+ to $4}, not '$2'"
  fi
}

# number_options COMMAND 'NAME:LEAST[:MOST]...' ARGUMENT...: sets a variable for each option that is given.
number_options() {
  local command=$1 options=" $2 " name bounds
  shift 2
  while (($#)); do
    name=${1#--}
    [[ $1 == --* && $options == *" $name:"* ]] || refuse "$command: unknown argument '$1'"
    bounds=${options#*" $name:"}
    bounds=${bounds%% *}
    # shellcheck disable=SC2086  # one number or two
    whole_number "$command: $1" "${2:-}" ${bounds/:/ }
    printf -v "$name" %s "$2"
    shift 2
  done
}

# options_of_run COMMAND ARGUMENT...: refuses an option that `underfoot run` does not have; the program
# refuses the rest.
options_of_run() {
  local command=$1 word
  shift
  for word in "$@"; do
    [[ $word != --?* || $word == --help ]] || grep -qF "\"${word%%=*}\"" vmm/cli/command.cc ||
      refuse "$command: unknown argument '$word'"
  done
}
