# Tab completion of firstlight for fish.
function __firstlight
    set -l typed (commandline -opc)
    $typed[1] --complete fish (commandline -cp) 2>/dev/null
end
complete -c firstlight -f -k -a '(__firstlight)'
