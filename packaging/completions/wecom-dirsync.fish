# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_wecom_dirsync_global_optspecs
    string join \n h/help V/version
end

function __fish_wecom_dirsync_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_wecom_dirsync_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_wecom_dirsync_using_subcommand
    set -l cmd (__fish_wecom_dirsync_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -s h -l help -d 'Print help'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -s V -l version -d 'Print version'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "run" -d 'Serve callbacks, convert userids and reconcile, until SIGTERM or SIGINT'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "check" -d 'Validate the configuration and print the effective one, secrets redacted'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "doctor" -d 'Try database, clock, tokens, API permissions and the public callback URL, with a remedy for each failure'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "status" -d 'Show counts by state, age of the backlog, last event and comparison, pauses'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "member" -d 'Show one member: fields, openid state, and its history'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "retry" -d 'Make conversions of members without an openid due now'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "reconcile" -d 'Compare the directory with WeCom, merge the differences, and print them'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "changes" -d 'Print the change feed, one JSON object per line'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "export" -d 'Write the current members to standard output'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "demo" -d 'Try the daemon on this machine, against a built-in stand-in for WeCom'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand run" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand check" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand check" -l database -d 'Verify the database as well: the file, its rows and indexes, the change feed'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand check" -l repair -d 'Correct what disagrees, while the service is stopped'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand doctor" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand doctor" -l url -d 'The callback URL as WeCom\'s console has it' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand doctor" -l json -d 'Print the result as one JSON object'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand status" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand status" -l json -d 'Print the result as one JSON object'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand member" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand member" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand retry" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand retry" -l all -d 'All members without an openid, failed ones included'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand retry" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand reconcile" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand reconcile" -l allow-deletes -d 'Allow N deletions, the number that a blocked comparison printed' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand reconcile" -l dry-run -d 'Print the differences; change nothing'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand reconcile" -l json -d 'Print the result as one JSON object'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand reconcile" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand changes" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand changes" -l since -d 'Start after this change; each line contains its epoch and seq' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand changes" -l follow -d 'Keep printing changes as they are committed'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand changes" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand export" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand export" -l format -d 'Format, for a spreadsheet or for programs' -r -f -a "csv\t'For Excel: UTF-8 with a byte order mark; formulas are neutralised'
ndjson\t'One JSON object per line'"
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "run" -d 'Serve callbacks, convert userids and reconcile, until SIGTERM or SIGINT'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "check" -d 'Validate the configuration and print the effective one, secrets redacted'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "doctor" -d 'Try database, clock, tokens, API permissions and the public callback URL, with a remedy for each failure'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "status" -d 'Show counts by state, age of the backlog, last event and comparison, pauses'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "member" -d 'Show one member: fields, openid state, and its history'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "retry" -d 'Make conversions of members without an openid due now'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "reconcile" -d 'Compare the directory with WeCom, merge the differences, and print them'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "changes" -d 'Print the change feed, one JSON object per line'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "export" -d 'Write the current members to standard output'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "demo" -d 'Try the daemon on this machine, against a built-in stand-in for WeCom'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member retry reconcile changes export demo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
