#compdef firstlight
# Tab completion of firstlight for zsh.
_firstlight() {
    local -a answer whole_words whole_texts open_words open_texts
    local row word
    # The program as it was typed: another environment may have another one.
    answer=("${(@f)$(${(e)~words[1]} --complete zsh "${(j: :)words[1,CURRENT-1]} ${PREFIX}" 2> /dev/null)}")
    for row in $answer; do
        word=${row%%$'\t'*}
        if [[ $word == *' ' ]]; then
            whole_words+=(${word% }) whole_texts+=("${word% }  ${row#*$'\t'}")
        else
            open_words+=($word) open_texts+=("$word  ${row#*$'\t'}")
        fi
    done
    compadd -l -d whole_texts -a whole_words
    compadd -l -S '' -d open_texts -a open_words
    (( $#whole_words + $#open_words ))
}
if [[ $funcstack[1] == _firstlight ]]; then
    _firstlight "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _firstlight firstlight
fi
