# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_wecom_dirsync_global_optspecs
    string join \n c/config= h/help V/version
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

complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -s h -l help -d 'Print help'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -s V -l version -d 'Print version'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "run" -d 'Serve callbacks, convert userids and reconcile, until SIGTERM or SIGINT'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "check" -d 'Validate the configuration and print the effective one, secrets redacted'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "doctor" -d 'Try database, clock, tokens, API permissions and the public callback URL, with a remedy for each failure'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "status" -d 'Show counts by state, age of the backlog, last event and comparison, pauses'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "member" -d 'Show one member: fields, openid state, and its history'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "members" -d 'List members: all, those without an openid and why, or those that departed'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "retry" -d 'Make conversions of members without an openid due now'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "reconcile" -d 'Compare the directory with WeCom, merge the differences, and print them'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "changes" -d 'Print the change feed, one JSON object per line'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "export" -d 'Write the current members to standard output'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "init" -d 'Make a configuration with new callback keys, or complete the package\'s, and print the steps in WeCom\'s console'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_needs_command" -f -a "send" -d 'Send a signed, encrypted verification or event to a URL, and judge the response as WeCom does'
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
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand members" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand members" -l department -d 'Only members of this department and those below it: a path such as 研发部/后端 or its end, or #ID' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand members" -l pending -d 'Only members without an openid yet, and why'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand members" -l failed -d 'Only members that WeCom refuses to convert for good, and why'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand members" -l departed -d 'Departed members, as long as their rows are stored'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand members" -s h -l help -d 'Print help (see more with \'--help\')'
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
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand init" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand init" -l corp-id -d 'Corp id (企业ID); asked for if it is missing and standard input is a terminal' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -s c -l config -d 'The configuration [default: ./sync.ini, then /etc/wecom-dirsync/sync.ini]' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l url -d 'The callback URL, such as https://your.domain/callback' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l userid -d 'Member of create_user, update_user, delete_user' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l new-userid -d 'Its new userid (update_user)' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l name -d 'Name of the member or department of an event' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l department -d 'Departments of the event\'s member, separated by commas' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l id -d 'Department or tag of an event' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l parent-id -d 'Parent of the event\'s department' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l add-users -d 'Members that the event\'s tag gains, separated by commas' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l del-users -d 'Members that the event\'s tag loses' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l add-parties -d 'Departments that the event\'s tag gains' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l del-parties -d 'Departments that the event\'s tag loses' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -l field -d 'Any other element of an event, such as Mobile=13800000000' -r
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand demo" -s c -l config -d 'Refused: a demo makes its own configuration' -r -F
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "run" -d 'Serve callbacks, convert userids and reconcile, until SIGTERM or SIGINT'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "check" -d 'Validate the configuration and print the effective one, secrets redacted'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "doctor" -d 'Try database, clock, tokens, API permissions and the public callback URL, with a remedy for each failure'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "status" -d 'Show counts by state, age of the backlog, last event and comparison, pauses'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "member" -d 'Show one member: fields, openid state, and its history'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "members" -d 'List members: all, those without an openid and why, or those that departed'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "retry" -d 'Make conversions of members without an openid due now'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "reconcile" -d 'Compare the directory with WeCom, merge the differences, and print them'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "changes" -d 'Print the change feed, one JSON object per line'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "export" -d 'Write the current members to standard output'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "init" -d 'Make a configuration with new callback keys, or complete the package\'s, and print the steps in WeCom\'s console'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "send" -d 'Send a signed, encrypted verification or event to a URL, and judge the response as WeCom does'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "demo" -d 'Try the daemon on this machine, against a built-in stand-in for WeCom'
complete -c wecom-dirsync -n "__fish_wecom_dirsync_using_subcommand help; and not __fish_seen_subcommand_from run check doctor status member members retry reconcile changes export init send demo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
