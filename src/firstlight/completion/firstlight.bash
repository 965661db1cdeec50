# Tab completion of firstlight for bash.
_firstlight() {
    local IFS=$'\n'
    # The program as it was typed: another environment may have another one.
    COMPREPLY=($("${1/#\~\//$HOME/}" --complete bash "${COMP_LINE:0:COMP_POINT}" "$2" 2> /dev/null))
}
complete -o nospace -F _firstlight firstlight
