//! What a client would do for the whole server, and so for everybody on it.

use serde_json::json;

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_serves_for_others_on_a_shared_server() {
    let Some(scene) = Scene::start("nobody_serves_for_others_on_a_shared_server").await else { return };
    // Not even where the operator allows whatever can be allowed.
    for who in ["eve", "mal"] {
        let mut client = scene.client(who).await;
        for method in [
            "sessionFs.setProvider",
            "llmInference.setProvider",
            "llmInference.httpResponseStart",
            "llmInference.httpResponseChunk",
            "registerExtensionLaunchProvider",
            "plugins.builtin.set",
        ] {
            let refused = client.call(method, json!({})).await.unwrap_err();
            assert_eq!(refused["code"], -32012, "{method}: {refused}");
            assert_eq!(refused["data"]["method"], method);
            assert_eq!(refused["data"]["rule"], "method", "{refused}");
        }
    }
}
