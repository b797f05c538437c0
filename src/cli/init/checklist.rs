//! The steps between a configuration and the first openid, in the order in which WeCom's console permits them.

use std::fmt::Write;
use std::path::Path;

use super::SYSTEM_FOLDER;
use crate::config::Config;
use crate::config::completion::find;
use crate::text::printable;

/// What must exist first. WeCom refuses a callback URL of a foreign domain, and API calls from an unknown address.
const BEFOREHAND: &str = "\
Before you begin, you need
  - a domain whose filing (ICP备案) names the company or one related to it, and a certificate for it
  - a reverse proxy (nginx, caddy) that ends TLS in front of this service
  - a fixed public address for this machine's outgoing connections
  - administrator rights in the console https://work.weixin.qq.com for 通讯录同步 and 应用管理

Then, in this order: the console permits 企业可信IP only after a URL was verified or a domain was set.
";

/// `text` is that of the configuration's file.
pub(super) fn text(config: &Config, text: &str, has_corp_id: bool) -> String {
    let file = printable(&config.file.display().to_string()).into_owned();
    let line = |section: &str, key: &str| find(text, section, key).map_or(0, |found| found.line);
    let is_system = config.file.parent() == Some(Path::new(SYSTEM_FOLDER));
    let (sudo, start, restart) = if is_system {
        let start = "sudo systemctl enable --now wecom-dirsync";
        ("sudo ", start.to_owned(), "sudo systemctl restart wecom-dirsync".to_owned())
    } else {
        let run = format!("wecom-dirsync run -c {file}");
        ("", run.clone(), format!("stop it, and again: {run}"))
    };
    let (path, listen) = (&config.callback.path, config.callback.listen);
    let url = format!("https://YOUR-DOMAIN{path}");
    let (token, key) = (line("callback", "token"), line("callback", "encoding_aes_key"));
    let mut steps = Vec::new();
    if !has_corp_id {
        let line = line("wecom", "corp_id");
        steps.push(format!("我的企业 > 企业信息 > 企业ID: write it into corp_id, line {line} of {file}"));
    }
    steps.push(format!("Start the service, because the console verifies the URL at once:\n{start}"));
    steps.push(format!(
        "Let the reverse proxy pass {url} on to http://{listen}{path}, unchanged. Test it as WeCom does:\n\
         {sudo}wecom-dirsync send -c {file} --url {url}"
    ));
    steps.push(format!(
        "安全与管理 > 管理工具 > 通讯录同步: first 开启API接口同步. Then 设置接收事件服务器:\n\
         URL             {url}\n\
         Token           the value of line {token} of {file}\n\
         EncodingAESKey  the value of line {key}\n\
         Copy both (not 随机获取), and save. The log then has \"URL verified\""
    ));
    steps.push("On the same page, which permits it now, 企业可信IP: add the fixed public address".to_owned());
    steps.push(
        "On the same page, Secret: write it into contacts_secret. It fills the database and finds missed events"
            .to_owned(),
    );
    steps.push(
        "应用管理 > 应用 > 自建: create an app whose 可见范围 covers all members who need an openid"
            .to_owned(),
    );
    steps.push(
        "In the app, 网页授权及JS-SDK > 设置可信域名: set the domain and upload the file that the console offers. (Or \
         接收消息 >\n设置API接收, with [callback.app] in the configuration.) The console then permits 企业可信IP: add the \
         same address"
            .to_owned(),
    );
    steps.push("In the app, Secret: write it into app_secret. It converts userids to openids".to_owned());
    steps.push(format!(
        "Check, restart, and look:\n{sudo}wecom-dirsync check -c {file}\n{restart}\n{sudo}wecom-dirsync status -c {file}"
    ));
    let mut list = BEFOREHAND.to_owned();
    for (number, step) in (1..).zip(steps) {
        let _ = writeln!(list, " {number:2}. {}", step.replace('\n', "\n     "));
    }
    list
}
